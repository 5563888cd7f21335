"""Operations: work that outlives its request, each with a durable receipt in Redis and a task of this process.

Not here: what the work is (each concern gives a coroutine), the HTTP around it (`gateway.operations`), and the receipts
in Redis (`pool.operation_receipts`), which move by compare-and-set from the OPERATION table, fenced by incarnation.
While Redis is away work goes on, and its end is written when Redis is back; until then this process answers from
memory.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pool import api
from pool.api import Report, Work
from pool.clock import Clock, iso
from pool.operation_receipts import Receipts
from pool.quotas import check_fixed
from pool.redis_link import RedisLink
from pool.tasks import end
from quilt_fn.errors import (
    Conflict,
    InvalidValue,
    OperationEnded,
    OperationNotFound,
    QuiltError,
    RegistryUnavailable,
)
from quilt_fn.model.common import new_id
from quilt_fn.model.operation import OperationRecord
from quilt_fn.states import OPERATION_ENDS, OperationStatus

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 0.3
POLL_EVERY_S = 0.5
"""How often a waiter looks for what another process moves, and an owner for what it was asked to cancel."""
RETRY_S = 1.0
CANCEL_WAIT_S = 10.0
CLOSE_WAIT_S = 10.0
"""So long may works take to undo what they had half made, at a cancel that somebody waits for and at shutdown."""
UNFINISHED_MAX = 500
"""Of a tenant: each has a task and a receipt in memory."""
WARNINGS_KEPT = 100
TEXT_KEPT = 2000

CANCELLED, TIMED_OUT = "CANCELLED", "TIMED_OUT"
NODE_STOPPED, NODE_RESTARTED = "NODE_STOPPED", "NODE_RESTARTED"


@dataclass(slots=True, eq=False)
class _Live:
    """An operation that this process runs, or whose end Redis does not have yet."""

    tenant_id: str
    record: OperationRecord
    stored: OperationStatus
    ended: asyncio.Future[None]
    task: asyncio.Task[None] | None = None
    why: str | None = None
    """Why its work was cancelled, where we did that."""
    dirty: bool = False
    ending: bool = False
    """Its work is over; nothing may cancel the writing of its end."""


@dataclass(slots=True)
class _Reporter:
    """See pool.api.Report."""

    record: OperationRecord
    changed: Callable[[], None]

    def __call__(self, progress_pct: float | None = None, message: str | None = None) -> None:
        if progress_pct is not None:
            self.record.progress_pct = round(min(100.0, max(0.0, progress_pct)), 2)
        if message is not None:
            self.record.message = message[:TEXT_KEPT]
        self.changed()

    def warn(self, text: str) -> None:
        if len(self.record.warnings) < WARNINGS_KEPT:
            self.record.warnings.append(text[:TEXT_KEPT])
            self.changed()

    def item(self, index: int, **fields: Any) -> None:
        while len(self.record.items) <= index:
            self.record.items.append({})
        self.record.items[index] |= fields
        self.changed()


@dataclass(slots=True)
class Operations:
    """`begin` works after `start`. `on_change` is told of every move and of progress, at the rate of its writes."""

    link: RedisLink
    node_id: str
    clock: Clock
    per_tenant: int = 1000
    days: float = 7.0
    on_change: Callable[[str, OperationRecord], None] = lambda _tenant_id, _record: None
    _live: dict[str, _Live] = field(default_factory=dict)
    _writer: asyncio.Task[None] | None = None
    _closing: bool = False
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _receipts: Receipts = field(init=False)

    def __post_init__(self) -> None:
        self._receipts = Receipts(self.link, self.node_id, self.per_tenant, self.days)

    async def start(self, incarnation: int) -> None:
        """End what an earlier incarnation of this node had not ended. Raises RegistryUnavailable."""
        self._receipts.incarnation = incarnation
        for operation_id, tenant_id in (await self._receipts.left_open()).items():
            await self._fail_left_over(tenant_id, operation_id)
        self._writer = asyncio.get_running_loop().create_task(self._write_progress(), name="operations")

    async def close(self) -> None:
        """Cancel every work, wait for its undoing, record both."""
        self._closing = True
        tasks = []
        for live in self._live.values():
            self._stop(live, NODE_STOPPED)
            if live.task is not None:
                tasks.append(live.task)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_WAIT_S)
            for task in late:
                log.error("%s did not end in %g s; the next start says so", task.get_name(), CLOSE_WAIT_S)
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=RETRY_S)
        if self._writer is not None:
            await end([self._writer])

    # the contract: pool.api.Operations

    async def begin(
        self,
        tenant_id: str,
        operation_type: str,
        target: tuple[str, str],
        work: Work,
        *,
        timeout_s: float,
        cancellable: bool = True,
        items: Sequence[Mapping[str, Any]] = (),
    ) -> OperationRecord:
        used = sum(live.tenant_id == tenant_id for live in self._live.values())
        hint = "wait for some of them to end, or cancel some"
        check_fixed("operations", UNFINISHED_MAX, used, "operations have not ended", hint, retry_after=1.0)
        now = iso(self.clock.wall())
        record = OperationRecord(
            operation_id=new_id("op"),
            operation_type=operation_type,
            status=OperationStatus.ACCEPTED,
            target_resource_type=target[0],
            target_resource_id=target[1],
            items=[dict(item) for item in items],
            cancellable=cancellable,
            started_at=now,
            updated_at=now,
        )
        async with self.link.undone_by(lambda: self._receipts.take_back(tenant_id, record.operation_id)):
            await self._receipts.add(tenant_id, record, self.clock.wall())
        loop = asyncio.get_running_loop()
        live = _Live(tenant_id, record, record.status, loop.create_future())
        self._live[record.operation_id] = live
        receipt = record.model_copy(deep=True)
        self.on_change(tenant_id, receipt)
        self._wake.set()
        live.task = loop.create_task(self._run(live, work, timeout_s), name=f"{operation_type} {record.operation_id}")
        return receipt

    async def get(self, tenant_id: str, operation_id: str, wait_s: float = 0.0) -> OperationRecord:
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while True:
            live = self._live.get(operation_id)
            if live is not None and live.tenant_id == tenant_id:
                left = until - loop.time()
                if live.record.status not in OPERATION_ENDS and left > 0:
                    await asyncio.wait([live.ended], timeout=left)
                return live.record.model_copy(deep=True)
            record = await self._receipts.read(tenant_id, operation_id)
            left = until - loop.time()
            if record.status in OPERATION_ENDS or left <= 0:
                return record
            await asyncio.sleep(min(POLL_EVERY_S, left))

    async def list(
        self, tenant_id: str, status: str | None, limit: int, cursor: str | None
    ) -> tuple[builtins.list[OperationRecord], str | None]:
        if status is not None and status not in builtins.list(OperationStatus):
            raise InvalidValue(f"status must be one of {', '.join(OperationStatus)}, not {status!r}")
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 17):
            raise InvalidValue(f"not a cursor of this list: {cursor[:100]!r}")
        found: builtins.list[OperationRecord] = []
        last = below = cursor
        while True:
            page = await self._receipts.page(tenant_id, below)
            if not page:
                return found, None
            for operation_id, place, stored in page:
                if stored is None:
                    continue
                live = self._live.get(operation_id)
                record = live.record.model_copy(deep=True) if live else stored
                if status is None or record.status == status:
                    if len(found) == limit:
                        return found, last
                    found.append(record)
                    last = place
            below = page[-1][1]

    async def cancel(self, tenant_id: str, operation_id: str) -> OperationRecord:
        record = await self.get(tenant_id, operation_id)
        if record.status in OPERATION_ENDS:
            raise OperationEnded(
                f"operation {operation_id} has ended: {record.status}", details={"status": record.status}
            )
        if not record.cancellable:
            raise Conflict(
                f"a {record.operation_type} can't be cancelled once it has begun", details={"status": record.status}
            )
        live = self._live.get(operation_id)
        if live is not None:
            self._stop(live, CANCELLED)
        else:
            await self._receipts.ask_cancel(operation_id)
        return await self.get(tenant_id, operation_id, CANCEL_WAIT_S)

    # running one

    async def _run(self, live: _Live, work: Work, timeout_s: float) -> None:
        record = live.record
        try:
            await self._move(live, record, OperationStatus.RUNNING)
        except RegistryUnavailable as error:
            log.info("%s runs; Redis is told later: %s", record.operation_id, error.message)
        record.status = OperationStatus.RUNNING
        self.on_change(live.tenant_id, record.model_copy(deep=True))
        report: Report = _Reporter(record, lambda: self._dirty(live))
        limit = asyncio.timeout(timeout_s)
        raised: BaseException | None = None
        try:
            async with limit:
                if live.why is None:  # else it was cancelled before it had begun
                    record.result = await work(report)
            record.model_dump_json()  # a result that is no JSON is a fault of the work
        except (Exception, asyncio.CancelledError) as error:  # whatever came, the end has to be recorded
            record.result, raised = None, error
        live.ending = True
        status = self._judge(live, raised, limit.expired(), timeout_s)
        if status is OperationStatus.SUCCEEDED:
            record.progress_pct = 100.0
        await self._end(live, status)

    def _judge(self, live: _Live, raised: BaseException | None, expired: bool, timeout_s: float) -> OperationStatus:
        """How it ended; `error` and `reason_code` are set. What a work raised while it undid things is a warning."""
        record = live.record
        cut_short = expired or live.why is not None
        if raised is None and (record.result is not None or not cut_short):
            return OperationStatus.SUCCEEDED
        if cut_short or isinstance(raised, asyncio.CancelledError):
            if isinstance(raised, Exception) and not isinstance(raised, TimeoutError):
                _Reporter(record, lambda: None).warn(f"while it was undone: {raised}")
                log.warning("%s was cut short and did not end cleanly", record.operation_id, exc_info=raised)
            if expired:
                record.reason_code, record.error = TIMED_OUT, f"it was not done within {timeout_s:g} s"
                return OperationStatus.TIMED_OUT
            record.reason_code = live.why or NODE_STOPPED
            record.error = "it was cancelled" if live.why == CANCELLED else "the node was shut down"
            return OperationStatus.CANCELLED
        if isinstance(raised, QuiltError):
            record.reason_code, record.error = raised.error_code, raised.message[:TEXT_KEPT]
        else:
            log.error("%s %s", record.operation_type, record.operation_id, exc_info=raised)
            record.reason_code = "INTERNAL_ERROR"
            record.error = f"something went wrong inside the platform; the node's log has {record.operation_id}"
        return OperationStatus.FAILED

    def _stop(self, live: _Live, why: str) -> None:
        """Cancel its work once; a second cancel would break into the undoing."""
        if live.why is None and not live.ending:
            live.why = why
            if live.task is not None and live.record.status is OperationStatus.RUNNING:
                live.task.cancel()

    async def _end(self, live: _Live, status: OperationStatus) -> None:
        """Record the end, as soon as Redis takes it. Whoever waits is told then, or at once while Redis is away."""
        now = iso(self.clock.wall())
        final = live.record.model_copy(update={"status": status, "updated_at": now, "completed_at": now})
        while True:
            try:
                if live.stored is OperationStatus.ACCEPTED:
                    await self._move(live, final, OperationStatus.RUNNING)
                await self._move(live, final, status)
                await self._receipts.close(final.operation_id)
                break
            except RegistryUnavailable as error:
                self._told(live, final)
                if self._closing:
                    log.warning("the end of %s (%s) is not recorded: %s", final.operation_id, status, error.message)
                    break
                await asyncio.sleep(RETRY_S)
        self._told(live, final)
        self._live.pop(final.operation_id, None)

    def _told(self, live: _Live, final: OperationRecord) -> None:
        if not live.ended.done():
            live.record = final
            live.ended.set_result(None)
            self.on_change(live.tenant_id, final.model_copy(deep=True))

    # receipts

    async def _move(self, live: _Live, record: OperationRecord, status: OperationStatus) -> None:
        """Write `record` under `status`. One that is not ours any more is left as it is, and the log says so."""
        froms = {live.stored} if live.stored is status else ()
        what = await self._receipts.move(live.tenant_id, record.model_copy(update={"status": status}), froms)
        if what[0] == "ok":
            live.stored = status
        elif what != ("refused", status) and not live.ending:  # else a retry, or progress that its end overtook
            log.error("%s can't become %s: %s (%s)", record.operation_id, status, *what)

    async def _fail_left_over(self, tenant_id: str, operation_id: str) -> None:
        try:
            record = await self._receipts.read(tenant_id, operation_id)
        except OperationNotFound:
            log.info("%s had no receipt yet when the node died", operation_id)
        else:
            if record.status not in OPERATION_ENDS:
                now = iso(self.clock.wall())
                record.status, record.reason_code = OperationStatus.FAILED, NODE_RESTARTED
                record.error = "the node died while this ran; begin it again"
                record.updated_at = record.completed_at = now
                what = await self._receipts.move(tenant_id, record)
                log.info("%s was running when the node died: %s", operation_id, what[0])
                self.on_change(tenant_id, record)
        await self._receipts.close(operation_id)

    # progress

    def _dirty(self, live: _Live) -> None:
        if live.record.status is OperationStatus.RUNNING:
            live.dirty = True
            self._wake.set()

    async def _write_progress(self) -> None:
        """Write what was reported, a few times a second, and see what other processes were asked to cancel here."""
        loop = asyncio.get_running_loop()
        looked_at = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_EVERY_S if self._live else None):
                    await self._wake.wait()
            self._wake.clear()
            try:
                for live in [each for each in self._live.values() if each.dirty]:
                    if live.record.status is OperationStatus.RUNNING is live.stored:
                        live.record.updated_at = iso(self.clock.wall())
                        self.on_change(live.tenant_id, live.record.model_copy(deep=True))
                        live.dirty = False
                        try:
                            await self._move(live, live.record, OperationStatus.RUNNING)
                        except RegistryUnavailable:
                            live.dirty = True
                            raise
                if self._live and loop.time() - looked_at >= POLL_EVERY_S:
                    looked_at = loop.time()
                    await self._look_for_cancels()
            except RegistryUnavailable as error:
                log.debug("progress waits: %s", error.message)
            await asyncio.sleep(PROGRESS_EVERY_S)

    async def _look_for_cancels(self) -> None:
        for operation_id in await self._receipts.asked_cancels():
            live = self._live.get(operation_id)
            if live is not None:
                self._stop(live, CANCELLED)


if TYPE_CHECKING:

    def _is_operations(operations: Operations) -> api.Operations:
        return operations
