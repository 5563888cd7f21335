"""kill -9 of the process that carries out one request of the spawner: whoever asked is answered at once, and what was
half made goes.

Not here: the spawner itself (`test_kills`, `test_container_kills`).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.integration.live import Live, wait_for
from tests.slowness import patience

AT_ONCE_S = patience(10.0)
"""Far below the two minutes that a request may take, far above what a busy machine needs for an answer."""


def children(pid: int) -> set[int]:
    """Those that are the spawner's own program: not the containers that it is the parent of."""
    found = set()
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(OSError):
            if "spawner" in Path(f"/proc/{child}/cmdline").read_text():
                found.add(int(child))
    return found


@contextmanager
def next_child_killed(live: Live, after_s: float = 0.0) -> Iterator[list[int]]:
    """The next process that the spawner forks for a request is killed so long after it is seen; its pid."""
    spawner = live.pid("spawner")
    wait_for(lambda: not children(spawner), "the spawner to have nothing to do")
    killed: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not killed and not over.is_set():
            for child in children(spawner):
                time.sleep(after_s)
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                killed.append(child)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield killed
    finally:
        over.set()
        watcher.join()


@pytest.mark.parametrize("what", ["container", "volume"])
def test_a_killed_request_is_answered_at_once(live: Live, what: str) -> None:
    path = f"/api/{what}s"
    body = {"name": "victim"} if what == "container" else {"name": "victim", "size_limit_mb": 64}
    began = time.monotonic()
    with next_child_killed(live) as killed:
        got = live.ask("POST", path, body)
    assert killed and time.monotonic() - began < AT_ONCE_S
    assert (got.status, got.code) == (503, "SPAWNER_ERROR"), got.body
    assert "signal 9 (Killed)" in got.json()["error"]
    for record in live.ok("GET", path)[f"{what}s"]:
        live.ok("DELETE", f"{path}/{record['container_id' if what == 'container' else 'name']}")
    made = live.ok("POST", path, {**body, "name": "next"})
    live.ok("DELETE", f"{path}/{made['container_id' if what == 'container' else 'name']}")


@pytest.mark.parametrize("after_s", [0.004, 0.012, 0.02])
def test_what_was_half_made_of_a_container_goes(live: Live, after_s: float) -> None:
    with next_child_killed(live, after_s):
        got = live.ask("POST", "/api/containers", {"name": "victim"})
    assert got.status == 201 or got.code == "SPAWNER_ERROR", got.body
    for record in live.ok("GET", "/api/containers")["containers"]:
        live.ok("DELETE", f"/api/containers/{record['container_id']}")


@pytest.mark.parametrize("after_s", [0.0, 0.006])
def test_a_killed_start_of_a_function_costs_no_invocation(live: Live, after_s: float) -> None:
    """Of kits, of a restore: the next way is tried, and whoever waits is served."""
    name = live.deploy("def handler(event): return event")
    for template in (False, True):
        live.drop_instances(name, template=template)
        began = time.monotonic()
        with next_child_killed(live, after_s) as killed:
            assert live.call(name, {"a": 1}) == {"a": 1}
            wait_for(lambda killed=killed: killed, "a request of the spawner")
        assert time.monotonic() - began < AT_ONCE_S
    assert live.call(name, 5) == 5
