"""A thousand invocations, a third of them with a fault: afterwards the platform has what it had before.

Not here: what each fault is answered with (tests/integration/test_bad_days).
"""

from __future__ import annotations

import random
import socket

from tests.integration.live import Live
from tests.integration.test_bad_days import SOURCE
from tests.slowness import patience

KINDS = {
    "remembers": 500, "raises": 80, "exits": 20, "really_exits": 40, "killed": 40, "crashes": 20, "closes": 20,
    "garbage": 20, "unserialisable": 60, "leaves_children": 40, "bomb_of_threads": 10, "locks": 20, "digs": 5,
    "eats": 15, "sleeps": 20, "stubborn": 10, "goes away": 40, "refused": 40,
}  # fmt: skip


def test_a_thousand_mixed_invocations(live: Live) -> None:
    """The fixture compares processes, mounts, cgroups, networks, descriptors, folders and keys afterwards."""
    assert sum(KINDS.values()) == 1000
    spec = {"memory_limit_mb": 96, "pids_limit": 64, "max_instances": 4, "timeout_seconds": patience(20)}
    names = [live.deploy(SOURCE, **spec), live.deploy(SOURCE, **spec)]
    work = [kind for kind, count in KINDS.items() for _ in range(count)]
    random.Random(7).shuffle(work)

    def one(number: int) -> tuple[str, int]:
        kind, name = work[number], names[number % 2]
        if kind == "goes away":
            with socket.create_connection(("127.0.0.1", live.port)) as sock:
                head = f"POST /fn/{name} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {live.key}\r\nContent-Length: 18\r\n\r\n"
                sock.sendall(head.encode() + b'{"do":"remembers"}')
            return kind, 0
        if kind == "refused":
            return kind, live.ask("POST", f"/fn/{name}", b"{", headers={"Content-Type": "application/json"}).status
        headers = {"X-Quilt-Timeout-S": "0.3"} if kind in ("sleeps", "stubborn") else {}
        return kind, live.ask("POST", f"/fn/{name}", {"do": kind}, headers=headers).status

    found: dict[str, set[int]] = {}
    for kind, status in live.many(1000, one, 8):
        found.setdefault(kind, set()).add(status)
    expected = {
        "raises": {500}, "exits": {500}, "really_exits": {502}, "killed": {502}, "crashes": {502}, "closes": {502},
        "garbage": {502}, "unserialisable": {500}, "leaves_children": {200, 500}, "locks": {200, 500},
        "digs": {200, 500},
        "eats": {500}, "sleeps": {504}, "stubborn": {504}, "goes away": {0}, "refused": {400}, "remembers": {200},
        "bomb_of_threads": {200},
    }  # fmt: skip
    assert found.keys() == expected.keys()
    assert {kind: statuses for kind, statuses in found.items() if not statuses <= expected[kind]} == {}
    for name in names:
        assert live.call(name, {"do": "remembers"})
        pool = live.pool(name)
        assert pool["total_count"] <= 4 and pool["busy_count"] == 0 and pool["queued_count"] == 0
