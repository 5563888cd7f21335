"""What `quilt status` says to people of what it was told. Not here: asking (tests/integration)."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.supervisor.__main__ import _status_text

WELL = {"available": True, "durable": True, "detail": "append-only file, fsync always"}


def said(**system: Any) -> list[str]:
    """The lines below those of the children."""
    body = {
        "url": "http://127.0.0.1:8420", "pid": 7, "started_at": 0.0, "state_dir": "/var/lib/quilt",
        "children": [{"name": "redis", "state": "ready", "pid": 8, "restarts": 0}],
        "system": system or None, "system_error": None,
    }  # fmt: skip
    return _status_text(body).splitlines()[2:]


@pytest.mark.parametrize(
    ("redis", "words"),
    [
        (WELL, []),
        ({**WELL, "durable": None}, []),
        ({**WELL, "available": False}, ["Redis does not answer", "503"]),
        ({**WELL, "durable": False, "detail": "appendfsync is no"}, ["may forget", "appendfsync is no"]),
    ],
)
def test_a_redis_that_is_away_or_forgets_is_told(redis: dict[str, Any], words: list[str]) -> None:
    lines = said(redis=redis, features={"criu": {"available": True}})
    assert len(lines) == bool(words)
    assert all(word in lines[0] for word in words)


def test_what_is_missing_is_told_with_its_reason() -> None:
    assert said(redis=WELL, features={"criu": {"available": False, "reason": "too old"}}) == ["  without criu: too old"]


def test_a_node_that_does_not_answer_has_said_nothing() -> None:
    assert said() == []
