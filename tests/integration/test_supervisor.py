"""The supervisor with a real redis-server and stand-ins for spawner and node: starts, deaths, ends, and what is left.

Not here: the real spawner and node under it (acceptance).
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from quilt_fn.settings import Settings
from runtime.doctor import node_user
from runtime.supervisor import processes
from tests.slowness import patience

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the supervisor takes root"),
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server on this machine"),
]

SCRIPT = Path(__file__).with_name("supervised.py")
PATIENCE_S = patience(30.0)


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class Platform:
    """One platform of the test's own: its folders, and its command line as a person would use it."""

    folder: Path
    port: int = field(default_factory=free_port)
    extra: dict[str, str] = field(default_factory=dict)
    seen: dict[int, int | None] = field(default_factory=dict)
    """Every process that was its own: pid and start time."""

    @property
    def settings(self) -> Settings:
        return Settings(state_dir=str(self.folder / "state"), port=self.port)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("QUILT_")}
        return {
            **kept,
            "QUILT_STATE_DIR": self.settings.state_dir,
            "QUILT_PORT": str(self.port),
            "QUILT_SHUTDOWN_SECONDS": "5",
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            **self.extra,
        }

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.note()
        return done

    def start(self) -> subprocess.Popen[str]:
        """In the foreground, in a process group of its own, as a terminal starts it; returns when it is up."""
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), "up"],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
        )  # fmt: skip
        assert process.stdout is not None
        assert "Quilt is up" in process.stdout.readline()
        self.note()
        return process

    def status(self) -> dict[str, Any]:
        done = self.run("status", "--json")
        return {} if done.returncode else json.loads(done.stdout)

    def children(self) -> dict[str, dict[str, Any]]:
        try:
            listed = json.loads((self.settings.run_path / "status.json").read_text())["children"]
        except FileNotFoundError:
            return {}
        return {child["name"]: child for child in listed}

    def note(self) -> None:
        for child in self.children().values():
            if child["pid"]:
                self.seen[child["pid"]] = child["started"]

    def alive(self) -> list[int]:
        return [pid for pid, started in self.seen.items() if processes.is_alive(pid, started)]

    def assert_nothing_left(self) -> None:
        assert self.alive() == []
        assert not self.settings.run_path.exists()

    def redis(self, *words: str) -> str:
        request = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(self.settings.redis_socket))
            sock.sendall(request.encode())
            return sock.recv(4096).decode()


@pytest.fixture
def make_platform() -> Iterator[Callable[[], Platform]]:
    # Not below pytest's own folder, which only root may enter: the node's user could not reach its state.
    folders: list[Platform] = []

    def make() -> Platform:
        folder = Path(tempfile.mkdtemp(prefix="quilt-supervisor-", dir="/var/tmp"))
        folder.chmod(0o755)
        folders.append(Platform(folder))
        return folders[-1]

    yield make
    for platform in folders:
        platform.extra = {}
        platform.run("down")
        for pid, started in platform.seen.items():
            processes.end(pid, started, 1.0)
        shutil.rmtree(platform.folder)


@pytest.fixture
def platform(make_platform: Callable[[], Platform]) -> Platform:
    return make_platform()


def test_detached_until_down(platform: Platform) -> None:
    up = platform.run("up", "--detach", "--json")
    assert up.returncode == 0, up.stderr
    answer = json.loads(up.stdout)
    assert answer["url"] == f"http://127.0.0.1:{platform.port}"

    status = platform.status()
    assert status["pid"] == answer["pid"]
    assert [(c["name"], c["state"], c["restarts"]) for c in status["children"]] == [
        ("redis", "ready", 0), ("spawner", "ready", 0), ("node", "ready", 0)
    ]  # fmt: skip
    key = json.loads(Path(answer["key_file"]).read_text())[answer["url"]]["api_key"]
    assert status["system"] == {"path": "/api/system/info", "key": key}
    assert "node" in platform.run("status").stdout

    assert platform.run("down").returncode == 0
    platform.assert_nothing_left()
    assert not processes.is_alive(answer["pid"])
    log = Path(answer["log_file"]).read_text()
    assert log.index("node       stopping") < log.index("spawner    stopping")


def test_nothing_runs(platform: Platform) -> None:
    status = platform.run("status", "--json")
    assert (status.returncode, json.loads(status.stdout)["running"]) == (1, False)
    down = platform.run("down")
    assert down.returncode == 1
    assert "no platform runs on the state folder" in down.stderr


def test_a_second_up_says_who_holds_the_folder(platform: Platform) -> None:
    first = json.loads(platform.run("up", "--detach", "--json").stdout)
    for words in (["up"], ["up", "--detach"]):
        second = platform.run(*words)
        assert second.returncode == 6
        assert f"held by process {first['pid']}" in second.stderr
    assert platform.status()["pid"] == first["pid"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_in_order(platform: Platform, number: signal.Signals) -> None:
    process = platform.start()
    # Ctrl-C reaches the whole group of the terminal; the children are in groups of their own.
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    platform.assert_nothing_left()
    assert said.index("node       stopping") < said.index("spawner    stopping") < said.index("ready to exit, bye bye")


@pytest.mark.parametrize("name", ["redis", "spawner", "node"])
def test_a_killed_child_comes_back(platform: Platform, name: str) -> None:
    assert platform.run("up", "--detach").returncode == 0
    platform.redis("SET", "kept", "yes")
    before = platform.children()
    os.kill(before[name]["pid"], signal.SIGKILL)
    after = wait_for(
        lambda: (c := platform.children())[name]["restarts"] == 1 and c[name]["state"] == "ready" and c, f"{name} again"
    )
    platform.note()
    assert after[name]["pid"] != before[name]["pid"]
    others = set(before) - {name}
    assert {other: after[other]["pid"] for other in others} == {other: before[other]["pid"] for other in others}
    assert platform.redis("GET", "kept") == "$3\r\nyes\r\n"
    assert platform.run("down").returncode == 0
    platform.assert_nothing_left()


def test_all_children_killed_at_once(platform: Platform) -> None:
    assert platform.run("up", "--detach").returncode == 0
    for child in platform.children().values():
        os.kill(child["pid"], signal.SIGKILL)
    wait_for(
        lambda: all(c["restarts"] == 1 and c["state"] == "ready" for c in platform.children().values()),
        "all of them again",
    )
    assert platform.status()["system_error"] is None


def test_the_supervisor_killed(platform: Platform) -> None:
    pid = json.loads(platform.run("up", "--detach", "--json").stdout)["pid"]
    platform.redis("SET", "kept", "yes")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not platform.alive(), "the children to end with it")
    assert platform.run("status").returncode == 1
    again = platform.run("up", "--detach")
    assert again.returncode == 0, again.stderr
    assert platform.redis("GET", "kept") == "$3\r\nyes\r\n"


def test_up_right_after_the_supervisor_was_killed(platform: Platform) -> None:
    platform.extra = {"FAKE_NODE_STUBBORN": "1", "QUILT_SHUTDOWN_SECONDS": "0.5"}
    pid = json.loads(platform.run("up", "--detach", "--json").stdout)["pid"]
    old = platform.children()["node"]
    os.kill(pid, signal.SIGKILL)
    platform.extra = {}
    again = platform.run("up", "--detach")
    assert again.returncode == 0, again.stderr
    assert not processes.is_alive(old["pid"], old["started"])


def test_a_child_that_does_not_end_is_killed(platform: Platform) -> None:
    platform.extra = {"FAKE_NODE_STUBBORN": "1", "QUILT_SHUTDOWN_SECONDS": "0.3"}
    process = platform.start()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert "node: does not end by itself, killed" in said
    platform.assert_nothing_left()


def test_a_second_signal_does_not_wait(platform: Platform) -> None:
    platform.extra = {"FAKE_NODE_STUBBORN": "1", "QUILT_SHUTDOWN_SECONDS": "600"}
    process = platform.start()
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: _read_until(process, "stopping"), "the first signal to be heard")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    platform.assert_nothing_left()


def _read_until(process: subprocess.Popen[str], text: str) -> bool:
    assert process.stderr is not None
    return text in process.stderr.readline()


@pytest.mark.parametrize("words", [["up"], ["up", "--detach"]])
def test_a_first_start_that_fails(platform: Platform, words: list[str]) -> None:
    platform.extra = {"FAKE_NODE_FAILS": "1"}
    up = platform.run(*words)
    assert up.returncode == 1
    assert "could not be started" in up.stderr
    assert "no port, no pride" in up.stderr
    platform.assert_nothing_left()
    kept = platform.folder / "config" / "quilt" / "credentials.json"
    assert json.loads(kept.read_text()) == {}  # the key that was made for it is of no use to anybody


def test_a_port_in_use(platform: Platform) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", platform.port))
        taken.listen()
        up = platform.run("up")
    assert up.returncode == 6
    assert f"port {platform.port}" in up.stderr
    platform.assert_nothing_left()


def test_the_first_key(platform: Platform) -> None:
    answer = json.loads(platform.run("up", "--detach", "--json").stdout)
    file = Path(answer["key_file"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = file.read_text()
    key = json.loads(kept)[answer["url"]]["api_key"]
    assert f"key {key} uid" in Path(answer["log_file"]).read_text()
    platform.run("down")
    platform.run("up", "--detach")
    assert file.read_text() == kept
    platform.run("down")

    platform.extra = {"QUILT_API_KEY": f"quilt_sk_{'0' * 32}"}
    given = json.loads(platform.run("up", "--detach", "--json").stdout)
    assert given["key_file"] is None
    assert f"key quilt_sk_{'0' * 32} uid" in Path(answer["log_file"]).read_text()
    assert file.read_text() == kept


def test_the_node_is_not_root(platform: Platform) -> None:
    user = node_user(platform.settings)
    if isinstance(user, str):
        pytest.skip(user)
    answer = json.loads(platform.run("up", "--detach", "--json").stdout)
    assert answer["warning"] is None
    assert user.uid == pwd.getpwnam("quilt").pw_uid
    for name in ("redis", "node"):
        assert Path(f"/proc/{platform.children()[name]['pid']}").stat().st_uid == user.uid
    state = Path(platform.settings.state_dir)
    owners = {
        path.name: (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) for path in state.iterdir() if path.is_dir()
    }
    assert owners == {"root": (0, 0o700), "node": (user.uid, 0o750), "redis": (user.uid, 0o700)}
    assert platform.settings.run_path.stat().st_uid == 0


def test_a_user_that_does_not_exist_is_said(platform: Platform) -> None:
    platform.extra = {"QUILT_USER": "nobody-of-that-name"}
    up = platform.run("up", "--detach", "--json")
    assert "no user 'nobody-of-that-name'" in up.stderr
    assert "no user 'nobody-of-that-name'" in json.loads(up.stdout)["warning"]
    assert Path(f"/proc/{platform.children()['node']['pid']}").stat().st_uid == 0


def test_two_platforms_side_by_side(make_platform: Callable[[], Platform]) -> None:
    one, two = make_platform(), make_platform()
    for platform in (one, two):
        assert platform.run("up", "--detach").returncode == 0
    assert one.run("down").returncode == 0
    one.assert_nothing_left()
    assert {child["state"] for child in two.children().values()} == {"ready"}


def test_a_run_folder_of_somebody_elses_is_left_alone(platform: Platform) -> None:
    run = platform.folder / "run"
    run.mkdir()
    (run / "letters.txt").write_text("dear")
    platform.extra = {"QUILT_RUN_DIR": str(run)}
    up = platform.run("up")
    assert up.returncode == 2
    assert "holds files that are not Quilt's" in up.stderr
    assert (run / "letters.txt").read_text() == "dear"


def test_a_state_folder_that_others_may_write_to(platform: Platform) -> None:
    state = Path(platform.settings.state_dir)
    state.mkdir()
    state.chmod(0o777)
    up = platform.run("up")
    assert up.returncode == 2
    assert "nobody else may write to" in up.stderr
    assert stat.S_IMODE(state.stat().st_mode) == 0o777
