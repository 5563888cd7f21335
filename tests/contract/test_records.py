"""Invocation records: capped by number and age, readable at once, bounded while Redis is away, counted once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pool import keys_in_redis as keys
from pool import records as records_module
from pool.clock import Clock
from pool.ended import Ended
from pool.log_files import LogFiles
from pool.records import Records
from pool.redis_link import RedisLink
from pool.stats import NodeStats
from quilt_fn.errors import InvalidValue, InvocationNotFound
from quilt_fn.states import InvocationStatus, StartKind
from runtime.api import Failure
from tests.contract.conftest import RedisHandle

FUNCTION = f"fn_{'0' * 20}"
NOW = time.time()

Make = Callable[..., Records]


def ended(number: int, **fields: Any) -> Ended:
    values: dict[str, Any] = {
        "function_id": FUNCTION, "function_name": "hello", "version": 1, "invocation_id": f"inv_{number:04}",
        "instance_id": "ins_1", "status": InvocationStatus.SUCCESS, "started_at": NOW + number - 0.5,
        "ended_at": NOW + number, "start": StartKind.WARM, "queue_ms": 0.0, "start_ms": 0.0, "run_ms": 1.0,
        "attempt": 1, "failure": None, "exit_code": None, "stdout": b"", "stderr": b"", "truncated": False,
        "result": b'{"n": 1}', "result_kind": "json",
    }  # fmt: skip
    return Ended(**(values | fields))


@pytest.fixture
async def stats() -> NodeStats:
    return NodeStats()


@pytest.fixture
async def make(link: RedisLink, tmp_path: Path, stats: NodeStats) -> Make:
    await link.client.hset(keys.function(FUNCTION), "newest", "1")
    return lambda **options: Records(link, LogFiles(tmp_path, 1), "node_1", Clock(), stats, **options)


async def test_read_your_writes_before_and_after_the_flush_and_in_another_process(make: Make) -> None:
    records = make()
    records.add(ended(1))
    before = await records.get(FUNCTION, "inv_0001")
    await records.flush()
    assert await records.get(FUNCTION, "inv_0001") == before
    assert await make().get(FUNCTION, "inv_0001") == before
    assert (before["result"], before["duration_ms"]) == ({"n": 1}, pytest.approx(500, abs=1))
    with pytest.raises(InvocationNotFound):
        await records.get(FUNCTION, "inv_none")
    with pytest.raises(InvocationNotFound):
        await records.get("fn_other", "inv_0001")


async def test_the_newest_are_kept(make: Make, link: RedisLink) -> None:
    records = make(per_function=10)
    for number in range(200):
        records.add(ended(number))
    await records.flush()
    assert await link.client.hlen(keys.records(FUNCTION)) == 10
    listed, cursor = await make().list(FUNCTION, None, 100, None)
    assert [each["invocation_id"] for each in listed] == [f"inv_{number:04}" for number in range(199, 189, -1)]
    assert cursor is None
    assert (await records.counts(FUNCTION))["invocations"] == 200


async def test_the_old_are_not_kept(make: Make) -> None:
    records = make(days=1.0)
    records.add(ended(1, ended_at=NOW - 2 * 86_400))
    records.add(ended(2))
    await records.flush()
    assert [each["invocation_id"] for each in (await records.list(FUNCTION, None, 10, None))[0]] == ["inv_0002"]


async def test_lists_filter_by_status_and_go_on_at_their_cursor(make: Make) -> None:
    records = make()
    failure = Failure("HANDLER_ERROR", "ValueError", "boom", "Traceback …")
    for number in range(300):
        status = InvocationStatus.FAILED if number % 3 == 0 else InvocationStatus.SUCCESS
        records.add(
            ended(number, status=status, failure=failure if number % 3 == 0 else None, ended_at=NOW + number // 2)
        )
    seen: list[str] = []
    cursor = None
    while True:
        page, cursor = await records.list(FUNCTION, "failed", 30, cursor)
        assert all(each["error"]["message"] == "boom" for each in page)
        seen += [each["invocation_id"] for each in page]
        if cursor is None:
            break
    assert seen == [f"inv_{number:04}" for number in range(297, -1, -3)]
    assert (await records.counts(FUNCTION))["errors"] == 100
    with pytest.raises(InvalidValue):
        await records.list(FUNCTION, None, 10, "nonsense")


async def test_a_batch_that_is_sent_twice_counts_once(make: Make) -> None:
    first, second = make(), make()
    for records in (first, second):
        records.add(ended(1))
        await records.flush()
    assert (await first.counts(FUNCTION))["invocations"] == 1


async def test_while_redis_is_away_a_bounded_number_waits(
    make: Make, redis: RedisHandle, stats: NodeStats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_module, "UNSENT_LIMIT", 100)
    records = make()
    await redis.go_away()
    for number in range(150):
        records.add(ended(number))
    await records.flush()
    assert (records.waiting, stats.records_dropped) == (100, 50)
    assert (await records.get(FUNCTION, "inv_0149"))["status"] == "success"
    assert (await records.list(FUNCTION, None, 2, None))[0][0]["invocation_id"] == "inv_0149"
    await redis.come_back()
    if redis.server is not None:
        assert await records._link.client.exists(keys.function(FUNCTION))
    await records.flush()
    assert records.waiting == 0
    assert (await records.counts(FUNCTION))["invocations"] == 100


async def test_records_of_a_function_that_is_gone_leave_no_key(make: Make, link: RedisLink) -> None:
    records = make()
    await link.client.delete(keys.function(FUNCTION))
    records.add(ended(1))
    await records.flush()
    assert records.waiting == 0
    assert await link.client.keys("*") == []


async def test_a_result_that_is_no_json_is_no_result(make: Make) -> None:
    records = make()
    records.add(ended(1, result=b"{torn"))
    records.add(ended(2, result=b"words", result_kind="text"))
    assert (await records.get(FUNCTION, "inv_0001"))["result"] is None
    assert (await records.get(FUNCTION, "inv_0002"))["result"] == "words"
