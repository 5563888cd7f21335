"""Runs one invocation on an instance of its version's pool, and leaves its record: the hot path.

Not here: which instance (`pool.dispatcher`) and what becomes of the record (`pool.records`). A warm call makes no task
and no future, and asks no Redis. Where the caller is cancelled while the call waits, the call goes on in a task of
ours; while it runs, the instance is ended (the Instance contract) and the record says `cancelled`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from time import perf_counter

from pool.api import Served, Target
from pool.clock import Clock
from pool.dispatcher import VersionPool
from pool.ended import INLINE_BYTES, Ended
from pool.records import Records
from pool.slots import Slot
from pool.stats import NodeStats
from pool.waiting import Turn, Waiter
from quilt_fn.errors import FunctionFailed, InvocationTimeout, QuiltError
from quilt_fn.states import INVOCATION, InvocationStatus, StartKind, check
from runtime.api import Call, Failure, Outcome

_RUNNING, _SUCCESS, _FAILED = InvocationStatus.RUNNING, InvocationStatus.SUCCESS, InvocationStatus.FAILED
_TIMEOUT, _CANCELLED = InvocationStatus.TIMEOUT, InvocationStatus.CANCELLED
_WARM = StartKind.WARM


@dataclass(slots=True)
class Run:
    """One call on one instance: how it came to it, and what it waited for."""

    pool: VersionPool
    slot: Slot
    call: Call
    began: float
    start: StartKind
    queue_ms: float
    start_ms: float


class Invoker:
    def __init__(self, records: Records, stats: NodeStats, clock: Clock) -> None:
        self._records = records
        self._stats = stats
        self._wall: Callable[[], float] = clock.wall
        self._detached: set[asyncio.Task[None]] = set()

    async def invoke(self, target: Target, call: Call) -> Served:
        """See pool.api.Platform.invoke; `target.pool` takes calls."""
        pool: VersionPool = target.pool
        slot = pool.take()
        if slot is not None:
            return await self._run(Run(pool, slot, call, self._wall(), _WARM, 0.0, 0.0))
        began = self._wall()
        try:
            waiter = pool.wait(call.deadline)
        except QuiltError as error:
            if error.error_code != "QUEUE_FULL":
                self._record_unserved(pool, call, began, error)
            raise
        try:
            turn = await asyncio.shield(waiter.turn)
        except asyncio.CancelledError:
            self._detach(pool, waiter, call, began)
            raise
        except QuiltError as error:
            self._record_unserved(pool, call, began, error)
            raise
        return await self._run_turn(pool, turn, call, began)

    async def _run_turn(self, pool: VersionPool, turn: Turn, call: Call, began: float) -> Served:
        return await self._run(Run(pool, turn.slot, call, began, turn.start, turn.queue_ms, turn.start_ms))

    async def _run(self, run: Run) -> Served:
        call, instance = run.call, run.slot.instance
        t0 = perf_counter()
        try:
            outcome = await instance.invoke(call)
        except asyncio.CancelledError:
            failure = Failure("INVOCATION_CANCELLED", "InvocationCancelled", "the caller went away")
            self._finish(run, perf_counter() - t0, Outcome(failure=failure))
            raise
        except Exception as error:  # the runtime's own fault: recorded, and on to the caller
            code = error.error_code if isinstance(error, QuiltError) else "INTERNAL_ERROR"
            failed = Outcome(failure=Failure(code, type(error).__name__, str(error)))
            run.slot.used_up = "a fault of the runtime"
            self._finish(run, perf_counter() - t0, failed)
            raise
        run_s = perf_counter() - t0
        served = Served(
            outcome, call.invocation_id, instance.instance_id, run.start, run.queue_ms, run.start_ms, run_s * 1000
        )
        if outcome.stream is None:
            self._finish(run, run_s, outcome)
        else:

            def ended(failure: Failure | None) -> None:
                run_s = perf_counter() - t0
                served.run_ms = run_s * 1000
                if outcome.failure is None:  # else the runtime knows more than how the stream ended
                    outcome.failure = failure
                self._finish(run, run_s, outcome)

            outcome.stream = Stream(outcome.stream, ended)
        return served

    def _finish(self, run: Run, run_s: float, outcome: Outcome) -> None:
        run.pool.release(run.slot, run_s)
        failure = outcome.failure
        if failure is None:
            status = _SUCCESS
            body = outcome.body
            kind = outcome.kind
            result = body if len(body) <= INLINE_BYTES and kind in ("json", "text") else None
        else:
            status = _status(failure, outcome.timed_out)
            check(INVOCATION, _RUNNING, status)
            result, kind = None, "json"
        stats = self._stats
        stats.run.observe(run_s)
        start, queue_ms = run.start, run.queue_ms
        if start is _WARM and not queue_ms:
            stats.starts[_WARM] += 1
            stats.queue.counts[0] += 1
        else:
            if start is _WARM:
                stats.starts[_WARM] += 1
            stats.queue.observe(queue_ms / 1000)
        pool, call = run.pool, run.call
        ended_at = self._wall()
        pool.stats.invocations[status] += 1
        pool.stats.last_invoked_at = ended_at
        spec = pool.spec
        self._records.add(
            Ended(
                spec.function_id, spec.function_name, spec.version, call.invocation_id, run.slot.instance.instance_id,
                status, run.began, ended_at, start, queue_ms, run.start_ms, run_s * 1000, call.attempt, failure,
                outcome.exit_code, outcome.stdout, outcome.stderr, outcome.truncated, result, kind,
            )
        )  # fmt: skip

    def _record_unserved(self, pool: VersionPool, call: Call, began: float, error: QuiltError) -> None:
        """A call that never came to an instance: over time in the queue, no instance starts, or its pool ended."""
        status = _TIMEOUT if isinstance(error, InvocationTimeout) else _FAILED
        check(INVOCATION, InvocationStatus.QUEUED, status)
        ended_at = self._wall()
        pool.stats.invocations[status] += 1
        pool.stats.last_invoked_at = ended_at
        waited_ms = (ended_at - began) * 1000
        self._stats.queue.observe(waited_ms / 1000)
        spec = pool.spec
        traceback = (error.details or {}).get("traceback")
        failure = Failure(error.error_code, type(error).__name__, error.message, traceback)
        self._records.add(
            Ended(
                spec.function_id, spec.function_name, spec.version, call.invocation_id, None, status, began, ended_at,
                None, waited_ms, 0.0, 0.0, call.attempt, failure, None, b"", b"", False, None, "json",
            )
        )  # fmt: skip

    # a caller that was cancelled while its call waited

    def _detach(self, pool: VersionPool, waiter: Waiter, call: Call, began: float) -> None:
        task = asyncio.get_running_loop().create_task(self._go_on(pool, waiter, call, began))
        self._detached.add(task)
        task.add_done_callback(self._detached.discard)

    async def _go_on(self, pool: VersionPool, waiter: Waiter, call: Call, began: float) -> None:
        try:
            turn = await waiter.turn
            served = await self._run_turn(pool, turn, call, began)
        except QuiltError as error:
            if not waiter.turn.cancelled() and waiter.turn.exception() is not None:
                self._record_unserved(pool, call, began, error)
            return
        if served.outcome.stream is not None:
            with contextlib.suppress(FunctionFailed):  # it is in the record
                async for _ in served.outcome.stream:
                    pass

    async def close(self) -> None:
        """Wait for the calls whose callers have gone."""
        while self._detached:
            # Not gather: of tasks that are done it comes back at once from Python 3.12 on, and never lets them be taken
            # out of the set.
            await asyncio.wait(self._detached)


def _status(failure: Failure, timed_out: bool) -> InvocationStatus:
    if timed_out or failure.code == "INVOCATION_TIMEOUT":
        return _TIMEOUT
    if failure.code == "INVOCATION_CANCELLED":
        return _CANCELLED
    return _FAILED


class Stream:
    """An outcome's stream; calls `ended` once, when it has ended, failed or been closed, even if it was never begun."""

    __slots__ = ("_ended", "_inner")

    def __init__(self, inner: AsyncIterator[bytes], ended: Callable[[Failure | None], None]) -> None:
        self._inner = inner
        self._ended: Callable[[Failure | None], None] | None = ended

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._inner.__anext__()
        except StopAsyncIteration:
            self._end(None)
            raise
        except QuiltError as error:
            self._end(Failure(error.error_code, type(error).__name__, error.message))
            raise
        except BaseException as error:
            await self._close_inner()
            self._end(Failure("INVOCATION_CANCELLED", type(error).__name__, "the stream was given up"))
            raise

    async def aclose(self) -> None:
        """Give the rest up. Idempotent."""
        if self._ended is not None:
            await self._close_inner()
            self._end(Failure("INVOCATION_CANCELLED", "InvocationCancelled", "the reader of the stream went away"))

    async def _close_inner(self) -> None:
        close = getattr(self._inner, "aclose", None)
        if close is not None:
            await close()

    def _end(self, failure: Failure | None) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(failure)
