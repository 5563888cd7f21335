"""Containers' network on a running platform: names, tenants, egress, diagnostics, and services that are published.

Not here: what reaches what in detail (`test_attachments`).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest

from tests.integration.live import Live, wait_for

LOOK_UP = """
import json, socket, sys
def look(name):
    try: return socket.gethostbyname(name)
    except OSError as error: return type(error).__name__
def reach(address):
    try:
        socket.create_connection((address, 7), 2).close()
        return "connected"
    except OSError as error: return type(error).__name__ + " " + str(error.errno)
print(json.dumps({"names": {n: look(n) for n in sys.argv[1].split(",")},
                  "reached": {a: reach(a) for a in sys.argv[2].split(",")}}))
"""


@pytest.fixture(scope="module")
def rival(live: Live) -> str:
    """A key of another tenant, as pool.api_keys keeps it."""
    key = "quilt_sk_" + secrets.token_hex(16)
    record = {"key_id": "key_" + "f" * 20, "tenant_id": "rival", "name": "test", "created_at": "2026-01-01T00:00:00Z"}
    live.redis("HSET", "quilt:api-keys", sha256(key.encode()).hexdigest(), json.dumps(record))
    return key


@pytest.fixture
def containers(live: Live) -> Iterator[Any]:
    """`containers(name, **spec)` makes one; all of them are deleted afterwards."""
    made: list[tuple[str, str]] = []

    def make(name: str, key: str = "", **spec: Any) -> dict[str, Any]:
        record: dict[str, Any] = live.ok("POST", "/api/containers", {"name": name, **spec}, key=key)
        made.append((record["container_id"], key))
        return record

    yield make
    for container_id, key in made:
        live.ask("DELETE", f"/api/containers/{container_id}", key=key)


def said(live: Live, container: dict[str, Any], key: str = "") -> Any:
    """What its command wrote, once it has ended."""
    path = f"/api/containers/{container['container_id']}"

    def lines() -> Any:
        got = live.ask("GET", f"{path}/logs?limit=50", key=key)
        text = "".join(json.loads(line)["text"] for line in got.body.decode().splitlines() if line)
        return text if text.strip() else None

    return json.loads(wait_for(lines, "the command to say something"))


def looks(names: str, addresses: str) -> list[str]:
    return ["/usr/bin/python3", "-c", LOOK_UP, names, addresses]


def test_names_of_the_tenants_own_containers_resolve(live: Live, rival: str, containers: Any) -> None:
    db = containers("db")
    theirs = containers("theirs", key=rival)
    names = "db,db.quilt.internal,theirs,theirs.quilt.internal,nobody"
    asks = containers("asks", command=looks(names, f"{db['ip_address']},{theirs['ip_address']}"))
    found = said(live, asks)
    assert found["names"] == {
        "db": db["ip_address"], "db.quilt.internal": db["ip_address"], "theirs": "gaierror",
        "theirs.quilt.internal": "gaierror", "nobody": "gaierror",
    }  # fmt: skip
    assert found["reached"] == {db["ip_address"]: "ConnectionRefusedError 111", theirs["ip_address"]: "OSError 113"}
    entries = live.ok("GET", "/api/dns/entries")["entries"]
    assert {e["name"] for e in entries} == {"db", "asks"}
    allocated = live.ok("GET", "/api/network/allocations", key=rival)["allocations"]
    assert [a["ip_address"] for a in allocated] == [theirs["ip_address"]]
    for method, path, body in (
        ("GET", "network", None), ("GET", "network/diagnostics", None), ("PUT", "network", {"egress": True}),
        ("GET", "services", None), ("POST", "services", {"name": "a", "target_port": 1}),
    ):  # fmt: skip
        assert live.ask(method, f"/api/containers/{theirs['container_id']}/{path}", body).status == 404


def test_egress_off_is_live_and_seen_by_the_diagnostics(live: Live, containers: Any) -> None:
    made = containers("inward")
    path = f"/api/containers/{made['container_id']}/network"
    before = live.ok("GET", path + "/diagnostics")
    assert before["healthy"] and {c["name"] for c in before["checks"]} >= {"link", "address", "route", "neighbour",
                                                                          "rules", "dns", "nat", "egress"}  # fmt: skip
    assert live.ok("PUT", path, {"egress": False})["egress"] is False
    after = live.ok("GET", path + "/diagnostics")
    egress = next(c for c in after["checks"] if c["name"] == "egress")
    assert after["healthy"] and egress["ok"] is None
    assert "switched off" in egress["found"] or "no server" in egress["found"]
    live.ok("POST", f"/api/containers/{made['container_id']}/stop", {"timeout_s": 0})
    assert live.ask("GET", path + "/diagnostics").code == "CONTAINER_NOT_RUNNING"
    live.kill("spawner")
    live.ok("POST", f"/api/containers/{made['container_id']}/start")
    again = wait_for(lambda: running(live, made["container_id"]), "the start")
    assert again["ip_address"] == made["ip_address"]
    assert live.ok("GET", path)["egress"] is False


def running(live: Live, container_id: str) -> dict[str, Any] | None:
    found: dict[str, Any] = live.ok("GET", f"/api/containers/{container_id}")
    return found if found["state"] == "running" else None


def test_without_a_network_there_is_none(live: Live, containers: Any) -> None:
    made = containers("hermit", network="none", command=looks("hermit,example.org", "192.0.2.1"))
    found = said(live, made)
    assert found["names"]["example.org"] == "gaierror" and found["reached"]["192.0.2.1"].endswith("101")
    path = f"/api/containers/{made['container_id']}"
    assert live.ok("GET", path + "/network")["ip_address"] is None
    for method, where, body in (
        ("PUT", "/network", {"egress": False}), ("GET", "/network/diagnostics", None),
        ("POST", "/services", {"name": "web", "target_port": 80}),
    ):  # fmt: skip
        assert live.ask(method, path + where, body).code == "CONFLICT"


def test_a_spawner_that_is_killed_leaves_names_and_connections(live: Live, containers: Any) -> None:
    one = containers("stays")
    live.kill("spawner")
    asks = containers("later", command=looks("stays", one["ip_address"]))
    found = said(live, asks)
    assert found == {
        "names": {"stays": one["ip_address"]},
        "reached": {one["ip_address"]: "ConnectionRefusedError 111"},
    }
    assert live.ok("GET", f"/api/containers/{one['container_id']}/network/diagnostics")["healthy"]


def test_a_node_that_is_killed_answers_names_again(live: Live, containers: Any) -> None:
    one = containers("lasting")
    live.kill("node")
    found = said(live, containers("asker", command=looks("lasting", one["ip_address"])))
    assert found["names"] == {"lasting": one["ip_address"]}
