"""The process that waits to be CRIU: with another program in CRIU's place, which can be told to end in any way, and in
a platform, where it is killed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.doctor.places import WAITING
from runtime.spawner import waiting_criu
from runtime.spawner.names import Config
from runtime.spawner.waiting_criu import NotWaiting, WaitingCriu
from tests.integration import own_network
from tests.integration.live import Live, wait_for

SOURCE = "def handler(event):\n    return event\n"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    found = replace(own_network.config(tmp_path), waiting=WAITING, criu=("/bin/sh",))
    found.run.mkdir()
    return found


@pytest.fixture
def waiting(config: Config) -> Iterator[WaitingCriu]:
    """A shell that waits, to be called with two arguments."""
    process = WaitingCriu(config, 2)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def namespaces() -> Iterator[list[int]]:
    """This process's own: mounts and network."""
    found = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in ("mnt", "net")]
    yield found
    for fd in found:
        os.close(fd)


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 41", 41), ("kill -9 $$", -9), ("exit 0", 0)])
def test_each_run_is_a_fork(
    waiting: WaitingCriu, config: Config, namespaces: list[int], script: str, code: int
) -> None:
    for _ in range(3):
        assert waiting_criu.run(config, ["-c", script], namespaces, 10.0) == code
    assert waiting.pid is not None
    children = Path(f"/proc/{waiting.pid}/task/{waiting.pid}/children")
    wait_for(lambda: children.read_text() == "", "the runs to be collected")


def test_it_goes_through_the_doors(waiting: WaitingCriu, config: Config, namespaces: list[int], tmp_path: Path) -> None:
    """Each is written to once, and nothing of them, nor the preloading, is left to who runs."""
    doors = [os.open(tmp_path / name, os.O_WRONLY | os.O_CREAT) for name in "ab"]
    script = f"ls -l /proc/self/fd > {tmp_path}/open; echo $LD_PRELOAD. > {tmp_path}/preload"
    assert waiting_criu.run(config, ["-c", script], [*namespaces, *doors], 10.0) == 0
    assert [(tmp_path / name).read_text() for name in "ab"] == ["0", "0"]
    left = (tmp_path / "open").read_text()
    assert "/dev/null" in left
    for kept in (f"{tmp_path}/a", f"{tmp_path}/b", "mnt:[", "net:[", "socket:["):
        assert kept not in left, left
    assert (tmp_path / "preload").read_text() == ".\n"
    for fd in doors:
        os.close(fd)


def test_what_it_refuses(waiting: WaitingCriu, config: Config, namespaces: list[int], tmp_path: Path) -> None:
    with pytest.raises(NotWaiting, match="too few arguments"):
        waiting_criu.run(config, ["-c"], namespaces, 10.0)
    with pytest.raises(NotWaiting, match="not what was agreed"):
        waiting_criu.run(config, ["-c", "exit 0", "more"], namespaces, 10.0)
    with pytest.raises(NotWaiting, match="not what was agreed"):
        waiting_criu.run(config, ["-c", "exit 0"], namespaces[:1], 10.0)
    closed = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(NotWaiting, match="entering the cgroup"):
        waiting_criu.run(config, ["-c", "exit 0"], [*namespaces, closed], 10.0)
    with pytest.raises(NotWaiting, match="entering the mount namespace"):
        waiting_criu.run(config, ["-c", "exit 0"], [closed, namespaces[1]], 10.0)
    os.close(closed)


def test_who_gives_up_has_it_killed(
    waiting: WaitingCriu, config: Config, namespaces: list[int], tmp_path: Path
) -> None:
    script = f"echo $$ > {tmp_path}/pid; exec sleep 60"
    with pytest.raises(TimeoutError):
        waiting_criu.run(config, ["-c", script], namespaces, 0.5)
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the program to be killed")


def test_when_another_takes_its_place(waiting: WaitingCriu, config: Config, namespaces: list[int]) -> None:
    """At once where it had lived for a while, else after a pause; meanwhile nobody waits."""
    assert waiting.pid is not None
    waiting.ended(waiting.pid + 1)
    assert waiting.due is None
    os.kill(waiting.pid, signal.SIGKILL)
    os.waitpid(waiting.pid, 0)
    waiting.ended(waiting.pid)
    assert waiting.pid is None
    assert waiting.due is not None
    assert waiting.due > time.monotonic() + 1
    with pytest.raises(NotWaiting):
        waiting_criu.run(config, ["-c", "exit 0"], namespaces, 10.0)
    waiting.start()
    assert waiting.due is None
    assert waiting_criu.run(config, ["-c", "exit 3"], namespaces, 10.0) == 3


def test_one_that_cannot_be_started_is_tried_again_later(config: Config, namespaces: list[int]) -> None:
    """The spawner goes on without."""
    process = WaitingCriu(replace(config, criu=("/nowhere/criu",)), 2)
    process.start()
    assert process.pid is None
    assert process.due is not None and process.due > time.monotonic() + 1
    with pytest.raises(NotWaiting):
        waiting_criu.run(config, ["-c", "exit 0"], namespaces, 1.0)


def test_nothing_waits_without_the_library(config: Config, namespaces: list[int]) -> None:
    process = WaitingCriu(replace(config, waiting=Path("/nowhere")), 2)
    process.start()
    assert process.pid is None
    with pytest.raises(NotWaiting):
        waiting_criu.run(config, ["-c", "exit 0"], namespaces, 10.0)


def waits(live: Live) -> int | None:
    spawner = live.pid("spawner")
    for child in Path(f"/proc/{spawner}/task/{spawner}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        if any(word.endswith(b"/criu") for word in command) and b"-" in command:
            return int(child)
    return None


def test_restores_go_on_when_it_is_killed(live: Live) -> None:
    """The first time another takes its place at once, then after a pause, and restores do without."""
    name = live.deploy(SOURCE)
    live.call(name)

    def restored() -> None:
        live.drop_instances(name, template=True)
        answer = live.ask("POST", f"/fn/{name}", {"n": 1})
        assert (answer.status, answer.start) == (200, "restore"), answer

    restored()
    first = waits(live)
    assert first is not None, "no CRIU waits"
    os.kill(first, signal.SIGKILL)
    restored()
    wait_for(lambda: waits(live) not in (None, first), "another to wait")
    second = waits(live)
    assert second is not None
    os.kill(second, signal.SIGKILL)
    restored()
    wait_for(lambda: waits(live) not in (None, second), "a third to wait")
    restored()
