"""Operations: durable receipts, every way to end, restart of the node, Redis away, lists that keep their place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from pool import keys_in_redis as keys
from pool.api import Report
from pool.clock import Clock
from pool.operations import Operations
from pool.redis_link import RedisLink
from quilt_fn.errors import (
    Conflict,
    InvalidValue,
    OperationEnded,
    OperationNotFound,
    QuotaExceeded,
    RegistryUnavailable,
    VolumeFull,
)
from quilt_fn.model.operation import OperationRecord
from quilt_fn.states import OPERATION_ENDS, OperationStatus
from tests.contract.conftest import RedisHandle
from tests.fakes.calls import until

TENANT = "t1"
TARGET = ("container", "ctr_1")
WAIT_S = 20.0
Make = Callable[..., Awaitable[Operations]]


class Held:
    """A work that waits for `go`, and counts how often it was undone."""

    def __init__(self, result: dict[str, Any] | None = None, undo: Exception | None = None) -> None:
        self.go = asyncio.Event()
        self.began = asyncio.Event()
        self.undone = 0
        self._result, self._undo = result, undo

    async def __call__(self, report: Report) -> dict[str, Any] | None:
        self.began.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.undone += 1
            if self._undo is not None:
                raise self._undo from None
            raise
        return self._result


async def done(_report: Report) -> dict[str, Any] | None:
    return {"answer": 42}


@pytest.fixture
async def make(redis: RedisHandle) -> AsyncIterator[Make]:
    """Started Operations, each a node process of its own on one Redis; closed at the end."""
    made: list[tuple[Operations, RedisLink]] = []

    async def start(incarnation: int = 1, **options: Any) -> Operations:
        link = RedisLink(redis.client())
        operations = Operations(link, options.pop("node_id", "node_1"), Clock(), **options)
        made.append((operations, link))
        await operations.start(incarnation)
        return operations

    yield start
    for operations, link in made:
        await operations.close()
        await link.close()


async def begin(operations: Operations, work: Any, timeout_s: float = 60.0, **options: Any) -> OperationRecord:
    return await operations.begin(TENANT, "container.start", TARGET, work, timeout_s=timeout_s, **options)


class Mute(RedisLink):
    """Takes no write any more."""

    async def script(self, text: str, keys: Any, args: Any = ()) -> Any:
        raise RegistryUnavailable("this process is dead")


async def kill(operations: Operations) -> None:
    """What kill -9 does, as far as Redis can tell: nothing is written any more."""
    operations._receipts.link = Mute(operations.link.client)
    await operations.close()


async def test_a_receipt_from_accepted_to_succeeded(make: Make, link: RedisLink) -> None:
    seen: list[tuple[str, str]] = []
    operations = await make(on_change=lambda tenant, record: seen.append((tenant, record.status)))
    held = Held({"n": 1})
    record = await begin(operations, held, items=[{"name": "a"}])
    assert (record.status, record.operation_type, record.target_resource_id) == ("accepted", "container.start", "ctr_1")
    assert await link.client.hexists(keys.operation_records(TENANT), record.operation_id)
    await held.began.wait()
    assert (await operations.get(TENANT, record.operation_id)).status == "running"
    held.go.set()
    ended = await operations.get(TENANT, record.operation_id, WAIT_S)
    assert (ended.status, ended.result, ended.progress_pct, ended.error) == ("succeeded", {"n": 1}, 100.0, None)
    assert ended.completed_at is not None and ended.items == [{"name": "a"}]
    assert seen == [(TENANT, "accepted"), (TENANT, "running"), (TENANT, "succeeded")]
    await until(lambda: not operations._live)
    assert await operations.get(TENANT, record.operation_id) == ended
    assert await link.client.hlen(keys.operations_open("node_1")) == 0


async def test_what_a_work_raises_is_its_error(make: Make) -> None:
    operations = await make()

    async def full(_report: Report) -> None:
        raise VolumeFull("no room")

    async def fault(_report: Report) -> None:
        raise ZeroDivisionError("secret")

    async def no_json(_report: Report) -> dict[str, Any]:
        return {"socket": object()}

    ended = await operations.get(TENANT, (await begin(operations, full)).operation_id, WAIT_S)
    assert (ended.status, ended.reason_code, ended.error) == ("failed", "VOLUME_FULL", "no room")
    for work in (fault, no_json):
        ended = await operations.get(TENANT, (await begin(operations, work)).operation_id, WAIT_S)
        assert (ended.status, ended.reason_code, ended.result) == ("failed", "INTERNAL_ERROR", None)
        assert ended.error is not None and "secret" not in ended.error and ended.operation_id in ended.error


async def test_a_tenant_has_so_many_unfinished_and_no_more(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pool.operations.UNFINISHED_MAX", 1)
    operations = await make()
    held = Held()
    record = await begin(operations, held)
    with pytest.raises(QuotaExceeded, match="1 operations have not ended") as refused:
        await begin(operations, done)
    assert refused.value.retry_after == 1.0, "they end by themselves"
    other = await operations.begin("t2", "container.start", TARGET, done, timeout_s=5.0)
    assert (await operations.get("t2", other.operation_id, WAIT_S)).status == "succeeded"
    held.go.set()
    await operations.get(TENANT, record.operation_id, WAIT_S)
    await until(lambda: not operations._live)
    assert (await begin(operations, done)).status == "accepted"


async def test_a_cancelled_work_is_undone_first(make: Make) -> None:
    operations = await make()
    held = Held()
    record = await begin(operations, held)
    await held.began.wait()
    ended = await operations.cancel(TENANT, record.operation_id)
    assert (ended.status, ended.reason_code, held.undone) == ("cancelled", "CANCELLED", 1)
    with pytest.raises(OperationEnded) as raised:
        await operations.cancel(TENANT, record.operation_id)
    assert raised.value.details == {"status": "cancelled"}


async def test_a_cancel_before_it_began_and_two_at_once(make: Make) -> None:
    operations = await make()
    held = Held()
    record = await begin(operations, held)  # its task has not had a turn yet
    later = asyncio.ensure_future(operations.cancel(TENANT, record.operation_id))  # has its turn behind the task
    first = await operations.cancel(TENANT, record.operation_id)  # stops it before it waits for the first time
    assert [first.status, (await later).status] == ["cancelled", "cancelled"]
    assert held.undone == 0 and not held.began.is_set()


async def test_what_is_not_cancellable_says_so(make: Make) -> None:
    operations = await make()
    held = Held()
    record = await begin(operations, held, cancellable=False)
    with pytest.raises(Conflict, match="can't be cancelled"):
        await operations.cancel(TENANT, record.operation_id)
    held.go.set()
    assert (await operations.get(TENANT, record.operation_id, WAIT_S)).status == "succeeded"


async def test_a_time_limit_undoes_and_an_unclean_undo_is_a_warning(make: Make) -> None:
    operations = await make()
    held = Held(undo=VolumeFull("could not undo"))
    ended = await operations.get(TENANT, (await begin(operations, held, 0.01)).operation_id, WAIT_S)
    assert (ended.status, ended.reason_code, held.undone) == ("timed_out", "TIMED_OUT", 1)
    assert ended.warnings == ["while it was undone: could not undo"]


async def test_progress_warnings_and_items_are_written_while_it_runs(make: Make) -> None:
    operations, other = await make(), await make(1, node_id="node_2")
    go = asyncio.Event()

    async def batch(report: Report) -> None:
        report(40.0, "half")
        report(message="x" * 5000)
        report.warn("slow disk")
        report.item(1, state="created")
        report.item(1, container_id="ctr_2")
        await go.wait()

    record = await begin(operations, batch, items=[{"name": "a"}, {"name": "b"}])
    while (seen := await other.get(TENANT, record.operation_id, 0.02)).progress_pct != 40.0:
        pass
    assert (seen.status, len(seen.message), seen.warnings) == ("running", 2000, ["slow disk"])
    assert seen.items == [{"name": "a"}, {"name": "b", "state": "created", "container_id": "ctr_2"}]
    go.set()
    assert (await other.get(TENANT, record.operation_id, WAIT_S)).status == "succeeded"


async def test_another_process_may_cancel_and_wait(make: Make) -> None:
    operations, other = await make(), await make(1, node_id="node_2")
    held = Held()
    record = await begin(operations, held)
    await held.began.wait()
    ended = await other.cancel(TENANT, record.operation_id)
    assert (ended.status, held.undone) == ("cancelled", 1)


async def test_a_wait_that_is_over_answers_what_is(make: Make) -> None:
    operations = await make()
    held = Held()
    record = await begin(operations, held)
    await held.began.wait()
    assert (await operations.get(TENANT, record.operation_id, 0.01)).status == "running"


async def test_a_node_that_died_leaves_node_restarted(make: Make, link: RedisLink) -> None:
    operations = await make(1)
    held = Held()
    running = await begin(operations, held)
    await held.began.wait()
    finished = await operations.get(TENANT, (await begin(operations, done)).operation_id, WAIT_S)
    await until(lambda: len(operations._live) == 1)
    await kill(operations)
    seen: list[str] = []
    again = await make(2, on_change=lambda _tenant, record: seen.append(record.operation_id))
    record = await again.get(TENANT, running.operation_id)
    assert (record.status, record.reason_code) == ("failed", "NODE_RESTARTED")
    assert record.completed_at is not None and seen == [running.operation_id]
    assert (await again.get(TENANT, finished.operation_id)).status == "succeeded"
    assert await link.client.hlen(keys.operations_open("node_1")) == 0


async def test_an_older_incarnation_writes_nothing_any_more(make: Make) -> None:
    old = await make(1)
    held = Held({"n": 1})
    record = await begin(old, held)
    await held.began.wait()
    new = await make(2)
    held.go.set()
    await until(lambda: not old._live)
    assert (await new.get(TENANT, record.operation_id)).reason_code == "NODE_RESTARTED"


async def test_shutdown_cancels_and_records(make: Make) -> None:
    operations = await make(1)
    held = Held()
    record = await begin(operations, held)
    await held.began.wait()
    waiting = asyncio.create_task(operations.get(TENANT, record.operation_id, WAIT_S))
    await operations.close()
    assert (await waiting).status == "cancelled"
    found = await (await make(2)).get(TENANT, record.operation_id)
    assert (found.status, found.reason_code, held.undone) == ("cancelled", "NODE_STOPPED", 1)


async def test_while_redis_is_away_nothing_begins_and_an_end_waits(make: Make, redis: RedisHandle) -> None:
    operations = await make(1)
    held = Held({"n": 1})
    record = await begin(operations, held)
    await held.began.wait()
    await redis.go_away()
    with pytest.raises(RegistryUnavailable):
        await begin(operations, done)
    held.go.set()
    assert (await operations.get(TENANT, record.operation_id, WAIT_S)).status == "succeeded"
    await redis.come_back()
    await until(lambda: not operations._live)
    assert (await operations.get(TENANT, record.operation_id)).result == {"n": 1}


async def test_one_tenant_is_blind_to_another(make: Make) -> None:
    operations = await make()
    held = Held()
    record = await begin(operations, held)
    for call in (operations.get, operations.cancel):
        with pytest.raises(OperationNotFound):
            await call("t2", record.operation_id)  # type: ignore[operator]
    assert await operations.list("t2", None, 10, None) == ([], None)
    held.go.set()
    await operations.get(TENANT, record.operation_id, WAIT_S)
    await until(lambda: not operations._live)
    with pytest.raises(OperationNotFound):
        await operations.get("t2", record.operation_id)


async def test_pages_are_newest_first_and_stable_under_inserts(make: Make) -> None:
    operations = await make()
    ids = [(await begin(operations, done)).operation_id for _ in range(7)]
    await until(lambda: not operations._live)
    first, cursor = await operations.list(TENANT, None, 3, None)
    ids += [(await begin(operations, done)).operation_id for _ in range(2)]
    second, cursor = await operations.list(TENANT, None, 3, cursor)
    third, last = await operations.list(TENANT, None, 3, cursor)
    assert [each.operation_id for each in first + second + third] == ids[6::-1]
    assert last is None
    await until(lambda: not operations._live)
    held = Held()
    running = await begin(operations, held)
    await held.began.wait()
    found, _ = await operations.list(TENANT, "running", 10, None)
    assert [each.operation_id for each in found] == [running.operation_id]
    held.go.set()


@pytest.mark.parametrize(("status", "cursor"), [("done", None), (None, "x"), (None, "-1"), (None, "1" * 30)])
async def test_a_status_or_cursor_that_is_none_is_refused(make: Make, status: str | None, cursor: str | None) -> None:
    operations = await make()
    with pytest.raises(InvalidValue):
        await operations.list(TENANT, status, 10, cursor)


async def test_retention_keeps_the_newest_and_all_that_run(make: Make, link: RedisLink) -> None:
    operations = await make(per_tenant=3)
    held = Held()
    running = await begin(operations, held)
    ids = []
    for _ in range(5):
        ids.append((await begin(operations, done)).operation_id)
        await operations.get(TENANT, ids[-1], WAIT_S)
        await until(lambda: len(operations._live) == 1)
    found, _ = await operations.list(TENANT, None, 10, None)
    assert [each.operation_id for each in found] == [*ids[:1:-1], running.operation_id]
    assert await link.client.hlen(keys.operation_states(TENANT)) == 4
    held.go.set()
    await operations.get(TENANT, running.operation_id, WAIT_S)


async def test_what_is_older_than_its_days_goes(make: Make) -> None:
    operations = await make(days=0.0)
    old = await operations.get(TENANT, (await begin(operations, done)).operation_id, WAIT_S)
    await until(lambda: not operations._live)
    await asyncio.sleep(0.002)  # the two clocks are told apart by a millisecond
    await begin(operations, done)
    with pytest.raises(OperationNotFound):
        await operations.get(TENANT, old.operation_id)


async def test_a_hundred_at_once(make: Make) -> None:
    operations = await make()
    records = await asyncio.gather(*(begin(operations, done) for _ in range(100)))
    ended = await asyncio.gather(*(operations.get(TENANT, each.operation_id, WAIT_S) for each in records))
    assert {each.status for each in ended} == {OperationStatus.SUCCEEDED} <= OPERATION_ENDS
