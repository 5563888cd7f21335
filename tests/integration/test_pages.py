"""Every list of the API in pages of one entry: each once, in the order of the whole list.

Not here: how a page is cut (tests/unit/test_paging.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from gateway.app import ROUTES
from tests.integration.live import Live

LISTS = {
    "containers": "/api/containers", "volumes": "/api/volumes", "functions": "/api/functions",
    "operations": "/api/operations", "images": "/api/images", "keys": "/api/keys",
    "sessions": "/api/terminal/sessions", "allocations": "/api/network/allocations", "entries": "/api/dns/entries",
    "services": "/api/containers/{container_id}/services",
}  # fmt: skip
ELSEWHERE = {"/api/functions/{function_id}/invocations"}
"""In tests/contract/test_records.py."""


@pytest.fixture(scope="module")
def furnished(live: Live) -> Iterator[str]:
    """Two of each thing at least; a container's id."""
    made: list[str] = []
    for _ in range(2):
        spec = {"name": f"p-{os.urandom(4).hex()}"}
        made.append(live.ok("POST", "/api/containers", spec)["container_id"])
    paths = [f"/api/containers/{each}" for each in made]
    for name in ("a", "b"):
        spec = {"name": f"p-{os.urandom(4).hex()}"}
        live.ok("POST", "/api/volumes", spec)
        paths.append(f"/api/volumes/{spec['name']}")
        found = live.ok(
            "POST", "/api/functions", {**spec, "source": "def handler(event): ...", "handler": "main.handler"}
        )
        paths.append(f"/api/functions/{found['function_id']}")
        key = live.ok("POST", "/api/keys", {"name": name})
        paths.append(f"/api/keys/{key['key_id']}")
        session = live.ok("POST", "/api/terminal/sessions", {"container_id": made[0]})
        paths.append(f"/api/terminal/sessions/{session['session_id']}")
        live.ok("POST", f"/api/containers/{made[0]}/services", {"name": name, "target_port": 80})
        live.ok("POST", f"/api/containers/{made[0]}/start")
    yield made[0]
    for path in reversed(paths):
        assert live.ask("DELETE", path).status in (200, 202, 204), path


@pytest.mark.parametrize("things", LISTS)
def test_a_list_in_pages_is_the_list(live: Live, furnished: str, things: str) -> None:
    path = LISTS[things].format(container_id=furnished)
    first = live.ok("GET", path)
    whole = first[things]
    assert len(whole) >= 2, "else there is nothing to see"
    seen: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = live.ok("GET", f"{path}?limit=1{cursor}")
        seen += page[things]
        if page["next_cursor"] is None or len(seen) == len(whole):
            break
        assert len(page[things]) == 1
        cursor = f"&cursor={quote(page['next_cursor'], safe='')}"
    assert [identity(each) for each in seen] == [identity(each) for each in whole]
    assert (page["next_cursor"] is None) == (first["next_cursor"] is None)


@pytest.mark.parametrize("things", LISTS)
def test_what_is_no_cursor_is_refused(live: Live, furnished: str, things: str) -> None:
    path = LISTS[things].format(container_id=furnished)
    for query in ("cursor=~~", "limit=0", "limit=x"):
        got = live.ask("GET", f"{path}?{query}")
        assert (got.status, got.code) == (422, "INVALID_VALUE"), (query, got.body)


def test_every_list_is_seen_here() -> None:
    lists = {route.shown_path for route in ROUTES if isinstance(route.answers, dict) and "next_cursor" in route.answers}
    assert lists == {*LISTS.values(), *ELSEWHERE}


def identity(record: dict[str, Any]) -> Any:
    ids = (
        "operation_id",
        "session_id",
        "service_id",
        "key_id",
        "volume_id",
        "function_id",
        "id",
        "container_id",
        "name",
    )
    return next(record[name] for name in ids if name in record)
