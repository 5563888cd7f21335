"""What the spawner's loop does for a node that has gone, and when what is due is done; without any request."""

from __future__ import annotations

import os
import select
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.spawner.server import REFILL_DELAY_S, Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """With nothing to sweep, and nothing that waits."""
    nothing: Any = SimpleNamespace(due=None)
    made = Server(nothing, nothing, nothing, nothing)
    monkeypatch.setattr(made, "_sweep", lambda: None)
    return made


def connected(server: Server) -> tuple[select.poll, socket.socket]:
    ours, theirs = socket.socketpair()
    server.node = ours
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    return poll, theirs


def test_the_pool_is_filled_up_after_a_start_that_its_nodes_end_killed(server: Server) -> None:
    """What it had taken came back to nobody."""
    poll, theirs = connected(server)
    start = os.posix_spawnp("sleep", ["sleep", "60"], os.environ)
    server.requests[start] = (1, "start")
    server.takers.add(start)
    begun = time.monotonic()
    server._drop(poll)
    theirs.close()
    assert not Path(f"/proc/{start}").exists()
    assert (server.node, server.requests, server.takers) == (None, {}, set())
    assert server.refill_at is not None
    assert begun + REFILL_DELAY_S <= server.refill_at <= time.monotonic() + REFILL_DELAY_S


def test_nothing_is_made_after_a_node_that_took_nothing(server: Server) -> None:
    poll, theirs = connected(server)
    server._drop(poll)
    theirs.close()
    assert server.refill_at is None
    assert server._until_due_ms() is None


def test_what_is_due_is_done_once_and_in_its_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(server, "_refill", lambda: done.append("refill"))

    def start() -> None:
        done.append("criu")
        server.waiting.due = None

    server.waiting.start = start  # type: ignore[method-assign]
    now = time.monotonic()
    server.refill_at, server.waiting.due = now - 1, now + 60
    assert server._until_due_ms() == 0
    server._do_what_is_due()
    server._do_what_is_due()
    assert done == ["refill"]
    left_ms = server._until_due_ms()
    assert left_ms is not None and 0 < left_ms <= 60_000
    server.waiting.due = now - 1
    server._do_what_is_due()
    server._do_what_is_due()
    assert done == ["refill", "criu"]
