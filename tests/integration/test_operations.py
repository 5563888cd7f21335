"""Operations, events and Idempotency-Key on a real platform whose node is killed with kill -9."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.live import Live, wait_for
from tests.slowness import patience


@contextmanager
def listening(live: Live, last: int | None = None) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of a stream, as {event, id, data}."""
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=patience(30))
    headers = {"X-Api-Key": live.key} | ({} if last is None else {"Last-Event-ID": str(last)})
    connection.request("GET", "/api/events", headers=headers)
    response = connection.getresponse()
    assert response.status == 200

    def events() -> Iterator[dict[str, Any]]:
        fields: dict[str, str] = {}
        while line := response.readline().decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            else:
                yield {
                    "event": fields["event"], "data": json.loads(fields["data"]), "id": int(fields.get("id", 0)),
                }  # fmt: skip
                fields = {}

    try:
        yield events()
    finally:
        connection.close()


@contextmanager
def spawner_held(live: Live) -> Iterator[None]:
    """Nothing is started while the block runs, so that what is asked for stays under way."""
    pid = live.pid("spawner")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def name(live: Live) -> Iterator[str]:
    made = "t-" + secrets.token_hex(5)
    yield made
    for each in live.ok("GET", "/api/containers")["containers"]:
        if each["name"].startswith(made):
            live.ok("DELETE", f"/api/containers/{each['container_id']}")


def test_kill_9_of_the_node_during_an_operation(live: Live, name: str) -> None:
    ended = live.ok("POST", "/api/containers/batch", {"items": [{"name": name + "-1"}]})
    found = live.ok("GET", f"{ended['status_url']}?wait_s=60")
    assert found["status"] == "succeeded", found

    with listening(live) as events:
        assert next(events)["event"] == "ready"
        node = live.pid("node")
        with spawner_held(live):
            begun = live.ok("POST", "/api/containers/batch", {"items": [{"name": name + "-2"}]})
            update = next(each for each in events if each["event"] == "OperationUpdate")
            assert update["data"]["operation_id"] == begun["operation_id"]
            wait_for(lambda: live.ok("GET", begun["status_url"])["status"] == "running", "the operation to run")
            os.kill(node, signal.SIGKILL)
        wait_for(
            lambda: live.children()["node"]["pid"] not in (None, node) and live.children()["node"]["state"] == "ready",
            "another node",
        )
    found = live.ok("GET", begun["status_url"])
    assert (found["status"], found["reason_code"]) == ("failed", "NODE_RESTARTED")
    assert live.ok("GET", ended["status_url"])["status"] == "succeeded"
    listed = live.ok("GET", "/api/operations?limit=2")["operations"]
    assert [each["operation_id"] for each in listed] == [begun["operation_id"], ended["operation_id"]]

    with listening(live, update["id"]) as events:
        assert next(events)["event"] == "ready"
        gap = next(events)
        assert gap["event"] == "gap" and gap["id"] > update["id"] and gap["data"]["after"] == update["id"]


def test_an_idempotency_key_holds_over_a_kill_of_the_node(live: Live, name: str) -> None:
    key = {"Idempotency-Key": name}
    first = live.ok("POST", "/api/containers", {"name": name}, headers=key)
    live.kill("node")
    again = live.ask("POST", "/api/containers", {"name": name}, headers=key)
    assert (again.status, again.headers["idempotency-replayed"]) == (201, "true")
    assert again.json()["container_id"] == first["container_id"]
    other = live.ask("POST", "/api/containers", {"name": name + "-x"}, headers=key)
    assert (other.status, other.code) == (422, "INVALID_VALUE")
