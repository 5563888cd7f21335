"""Fixtures of the integration tests: one real platform for all of them, and a count before and after each module.

Not here: the platform itself (`live`) and what is counted (`census`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration import census
from tests.integration.live import Live, running
from tests.slowness import patience

LEAK_PATIENCE_S = patience(20.0)


@pytest.fixture(scope="session")
def platform_of_all() -> Iterator[Live]:
    with running() as live:
        # What is made once for all, by the first function and container of a tenant, is no leak.
        for _ in range(2):
            name = live.deploy("def handler(event): return event")
            live.call(name)
            live.delete(name)
        made = live.ok("POST", "/api/containers", {"name": "first"})
        live.ok("DELETE", f"/api/containers/{made['container_id']}")
        yield live


def assert_nothing_left(
    live: Live, before: dict[str, object], compare: Callable[..., dict[str, Any]] = census.difference
) -> None:
    """Wait until the platform has what it had, or fail with what it has more or less."""
    deadline = time.monotonic() + LEAK_PATIENCE_S
    while changed := compare(before, census.take(live)):
        assert time.monotonic() < deadline, f"left behind: {changed}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def leaks(platform_of_all: Live) -> Iterator[None]:
    """After the module: delete every function, then compare with before."""
    before, node = settled(platform_of_all), platform_of_all.pid("node")
    yield
    delete_all(platform_of_all)
    # A node that took the place of one that was killed may have less: connections that nobody has needed yet.
    same = platform_of_all.pid("node") == node
    assert_nothing_left(platform_of_all, before, census.difference if same else census.more)


def settled(live: Live) -> dict[str, object]:
    """A census that is the same twice: what the last test ended has ended."""
    deadline = time.monotonic() + LEAK_PATIENCE_S
    last = census.take(live)
    while True:
        time.sleep(0.3)
        now = census.take(live)
        if not census.difference(last, now):
            return now
        assert time.monotonic() < deadline, census.difference(last, now)
        last = now


def delete_all(live: Live) -> None:
    for record in live.ok("GET", "/api/functions?limit=1000")["functions"]:
        live.delete(record["name"])


@pytest.fixture(scope="module")
def live(platform_of_all: Live, leaks: None) -> Live:
    """The platform; whatever a module deploys on it is deleted at the module's end."""
    return platform_of_all


@pytest.fixture(scope="module")
def function(live: Live) -> Callable[..., str]:
    """`function(source, **spec)`: deployed once for a module and its text, however often it is asked for."""
    made: dict[str, str] = {}

    def deploy(source: str, **spec: object) -> str:
        key = source + repr(sorted(spec.items()))
        if key not in made:
            made[key] = live.deploy(source, **spec)
        return made[key]

    return deploy
