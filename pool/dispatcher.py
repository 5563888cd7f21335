"""Which instance of a version serves which invocation: an idle stack, ordered waiters, a bounded queue. No Redis.

One VersionPool for each version that serves or drains. It decides by asking `pool.scaler`, and leaves starting and
ending to its executor. Not here: running the invocation (`pool.invoking`), the queue itself (`pool.waiting`).

    take()      an idle instance, newest first, at once; None where there is none
    wait()      then: a place in the queue; its future gives a Turn when an instance was freed or came up
    release()   gives the instance to the first who waits, else it is idle; what may not serve again is ended
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol, assert_never

from pool.clock import Clock, Timer
from pool.scaler import Idle, LookAgain, Retire, Start, View, decide
from pool.slots import Limits, Slot
from pool.stats import FunctionStats
from pool.waiting import Queue, Waiter, again
from quilt_fn.errors import InvocationTimeout, QueueFull, QuiltError, StartFailed
from quilt_fn.states import InstanceState, StartKind
from runtime.api import Instance, VersionSpec

START_ATTEMPTS = 3
"""So many rounds of starts in a row may fail before those who wait are told."""
BACKOFF_S = 0.1
BACKOFF_LIMIT_S = 30.0
MAX_WARMING = {StartKind.FORK: 16, StartKind.RESTORE: 4, StartKind.BOOT: 2, StartKind.WARM: 1}
"""Starts at once, by what they cost the machine."""


class Executor(Protocol):
    """What a pool needs done; each is begun, never awaited."""

    def start(self, pool: VersionPool, count: int) -> None:
        """Begin `count` starts; each ends in `pool.started` or `pool.start_failed`."""
        ...

    def end(self, slot: Slot, reason: str) -> None:
        """End an instance; the pool learns from `on_closed`."""
        ...

    def ways(self, spec: VersionSpec) -> list[StartKind]: ...


class VersionPool:
    """See the file's head. All methods are called on one loop; none but `drained` awaits."""

    def __init__(
        self,
        spec: VersionSpec,
        limits: Limits,
        executor: Executor,
        clock: Clock,
        stats: FunctionStats | None = None,
        *,
        opened: bool = True,
    ) -> None:
        self.spec = spec
        self.limits = limits
        self.stats = stats if stats is not None else FunctionStats()
        self.opened = opened
        """Until the version has been built, waiters wait and nothing is started."""
        self.draining = False
        self.ended: QuiltError | None = None
        """Set once the pool takes no more: what an acquire raises then."""
        self.slots: dict[str, Slot] = {}
        self.idle: list[Slot] = []
        self.busy = 0
        self.warming = 0
        self.arrivals = 0
        self.arrivals_per_s = 0.0
        self.start_failures = 0
        self.last_error: str | None = None
        self._last_failure: StartFailed | None = None
        self._queue = Queue(clock, self._overdue, self._check_empty)
        self._reconsider_at = 0
        """Having been told to look again later, the pool asks when the waiters have doubled, not at each of them."""
        self._executor = executor
        self._clock = clock
        self._now = clock.now
        self._changed_at = clock.now()
        self._run_s: float | None = None
        self._start_s: dict[StartKind, float] = {}
        self._not_before = 0.0
        self._look_again: Timer | None = None
        self._empty: list[asyncio.Future[None]] = []
        self._changed: list[asyncio.Future[None]] = []
        self.apply(limits)

    @property
    def queued(self) -> int:
        """So many wait."""
        return self._queue.count

    # acquire and release

    def take(self) -> Slot | None:
        """An idle instance, now busy; None where none is idle. Neither awaits nor makes a task."""
        if not self.idle:
            return None
        slot = self.idle.pop()
        slot.state = InstanceState.BUSY
        self._changed_at = self._now()
        self.busy += 1
        self.arrivals += 1
        if len(self.idle) < self._buffer:
            self.consider()
        return slot

    def wait(self, deadline: float) -> Waiter:
        """A place in the queue until `deadline` (epoch s). Raises QueueFull, StartFailed (known by now), or `ended`."""
        if self.ended is not None:
            raise again(self.ended)
        limits = self.limits
        if self.queued >= limits.max_queue + max(0, limits.max - self.busy):
            estimate_s = (self._run_s or 1.0) * self.queued / max(1, limits.max)
            raise QueueFull(
                f"function {self.spec.function_name}: {self.queued} invocations wait already (max_queue is "
                f"{limits.max_queue})",
                details={"queued": self.queued, "max_queue": limits.max_queue, "max_instances": limits.max},
                retry_after=min(60, math.ceil(max(estimate_s, 1.0))),
            )
        now = self._now()
        if self.start_failures >= START_ATTEMPTS and now < self._not_before and not self.slots and not self.warming:
            raise self._start_error()
        waiter = self._queue.add(now, deadline)
        self.arrivals += 1
        if self._look_again is None or self.queued >= self._reconsider_at:
            self.consider()
        return waiter

    def release(self, slot: Slot, run_s: float) -> None:
        """The invocation (and its stream) is over. Never raises for what the instance did."""
        slot.invocations += 1
        self._changed_at = now = self._now()
        run = self._run_s
        self._run_s = run_s if run is None else run + (run_s - run) * 0.1
        if slot.gone or not slot.instance.reusable:
            self._end_busy(slot, "not reusable after its last invocation")
        elif slot.invocations >= self._recycle_after:
            self._end_busy(slot, self._recycle_reason)
        elif self._queue.count:
            self._queue.hand_over(slot, StartKind.WARM, 0.0)
        else:
            slot.state = InstanceState.READY
            slot.idle_since = now
            self.idle.append(slot)
            self.busy -= 1
            if self.draining:
                self.consider()

    def _overdue(self, waited_s: float) -> InvocationTimeout:
        text = f"function {self.spec.function_name}: no instance was free within the time limit, {waited_s:.1f} s"
        details = {
            "limit": "queue",
            "queued": self.queued,
            "max_instances": self.limits.max,
            "last_start_error": self.last_error,
        }
        return InvocationTimeout(text, details=details)

    def _end_busy(self, slot: Slot, reason: str) -> None:
        self.busy -= 1
        slot.move(InstanceState.TERMINATING)
        if slot.gone:
            self._drop(slot)
        else:
            self._executor.end(slot, reason)
        self.consider()

    # what the executor reports

    def started(self, instance: Instance, start_s: float) -> None:
        """An instance has come up: to the first who waits, else idle."""
        self.warming -= 1
        self._notify()
        self.start_failures = 0
        self.last_error = self._last_failure = None
        known = self._start_s.get(instance.start)
        self._start_s[instance.start] = start_s if known is None else known + (start_s - known) * 0.3
        slot = Slot(instance, self._now())
        self.slots[instance.instance_id] = slot
        instance.on_closed(lambda reason: self._closed(slot, reason))
        if slot.gone:
            return
        if self.ended is not None:
            slot.move(InstanceState.RECYCLING)
            self._executor.end(slot, self.ended.message)
            return
        if self.queued:
            slot.move(InstanceState.BUSY)
            self.busy += 1
            self._queue.hand_over(slot, instance.start, start_s * 1000)
        else:
            self.idle.append(slot)
        self.consider()

    def start_failed(self, reason: str, error: StartFailed | None = None) -> None:
        """A start came to nothing. Starts that fail while a failure is being waited out count as the same round."""
        self.warming -= 1
        self._notify()
        self.last_error, self._last_failure = reason, error
        now = self._now()
        if now >= self._not_before:
            self.start_failures += 1
            self._not_before = now + min(BACKOFF_S * 2 ** (self.start_failures - 1), BACKOFF_LIMIT_S)
        if self.start_failures >= START_ATTEMPTS and not self.warming and not self.slots:
            self._queue.fail_all(self._start_error())
        self.consider()
        self._check_empty()

    def _start_error(self) -> StartFailed:
        cause = self._last_failure
        told = (cause.details if cause is not None else None) or {}
        details = {key: told[key] for key in ("stage", "traceback", "output") if told.get(key)}
        return (StartFailed if cause is None else type(cause))(
            f"function {self.spec.function_name}: no instance starts: {self.last_error}",
            details={**details, "reason": self.last_error, "attempts": self.start_failures},
            retry_after=round(max(self._not_before - self._now(), 0.1), 1),
        )

    def _closed(self, slot: Slot, reason: str) -> None:
        """The instance has gone; where it is busy, its `release` follows."""
        slot.gone = True
        if slot.state is InstanceState.BUSY:
            return
        if slot.state is InstanceState.READY and slot in self.idle:
            self.idle.remove(slot)
        self._drop(slot)
        self.consider()

    def _drop(self, slot: Slot) -> None:
        self.slots.pop(slot.instance.instance_id, None)
        self._check_empty()

    # deciding

    def apply(self, limits: Limits) -> None:
        """Other limits from now on."""
        self.limits = limits
        count = 1 if limits.one_shot else limits.recycle_after_invocations
        self._recycle_after: float = math.inf if count is None else count
        self._recycle_reason = "cleanup_on_exit" if limits.one_shot else f"served {count} invocations"
        self._buffer = 0 if self.draining else limits.buffer

    def view(self) -> View:
        """What the scaler sees."""
        now = self._now()
        limits = self.limits
        ways = self._executor.ways(self.spec)
        way = ways[0] if ways else StartKind.BOOT
        first = self._queue.first()
        return View(
            now=now,
            queued=self.queued,
            oldest_wait_s=now - first.since if first is not None else 0.0,
            busy=self.busy,
            idle=[Idle(slot.instance.instance_id, slot.idle_since, self._used_up(slot, now)) for slot in self.idle],
            warming=self.warming,
            min=limits.min,
            max=limits.max,
            buffer=limits.buffer,
            idle_timeout_s=limits.idle_timeout_s,
            draining=self.draining,
            failures=self.start_failures,
            not_before=self._not_before,
            max_warming=MAX_WARMING[way],
            start_s=self._start_s.get(way),
            run_s=self._run_s,
            unchanged_s=now - self._changed_at,
            arrivals_per_s=self.arrivals_per_s,
        )

    def _used_up(self, slot: Slot, now: float) -> str | None:
        age_limit_s = self.limits.recycle_after_s
        if age_limit_s is not None and now - slot.started >= age_limit_s:
            return f"older than {age_limit_s:g} s"
        return slot.used_up

    def consider(self) -> None:
        """Ask the scaler, and have done what it says."""
        if not self.opened or self.ended is not None:
            return
        if self._look_again is not None:
            self._look_again.cancel()
            self._look_again = None
        for action in decide(self.view()):
            match action:
                case Start(count):
                    self.warming += count
                    self._executor.start(self, count)
                case Retire(instance_id, reason):
                    slot = self.slots[instance_id]
                    self.idle.remove(slot)
                    slot.move(InstanceState.RECYCLING)
                    self._executor.end(slot, reason)
                case LookAgain(after_s):
                    self._look_again = self._clock.later(after_s, self.consider)
                    self._reconsider_at = 2 * self.queued
                case _:
                    assert_never(action)

    def open(self) -> None:
        """The version has been built: start what is wanted."""
        self.opened = True
        self.consider()

    def drain(self) -> None:
        """Serve those who wait, keep nothing. New callers go to another pool."""
        self.draining = True
        self._notify()
        self._buffer = 0
        self.consider()
        self._check_empty()

    def undrain(self) -> None:
        """Serve again."""
        self.draining = False
        self._buffer = self.limits.buffer
        self.consider()

    def end(self, error: QuiltError) -> None:
        """Take no more: those who wait get `error`, idle and busy instances are ended. Idempotent."""
        if self.ended is not None:
            return
        self.ended = error
        self._notify()
        if self._look_again is not None:
            self._look_again.cancel()
            self._look_again = None
        self._queue.end(error)
        idle, self.idle = self.idle, []
        for slot in idle:
            slot.move(InstanceState.RECYCLING)
            self._executor.end(slot, error.message)
        for slot in list(self.slots.values()):
            if slot.state is InstanceState.BUSY:
                self._executor.end(slot, error.message)
        self._check_empty()

    @property
    def is_empty(self) -> bool:
        """No instance, none on its way, nobody waits."""
        return not (self.slots or self.warming or self.queued)

    async def at_min(self) -> None:
        """Return when min_instances are up. Raises StartFailed where none starts."""
        while len(self.slots) < min(self.limits.min, self.limits.max) and self.ended is None and not self.draining:
            if self.start_failures >= START_ATTEMPTS:
                raise self._start_error()
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._changed.append(future)
            await future

    def _notify(self) -> None:
        futures, self._changed = self._changed, []
        for future in futures:
            if not future.done():
                future.set_result(None)

    async def drained(self) -> None:
        """Return when the pool is empty."""
        if not self.is_empty:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._empty.append(future)
            await future

    def _check_empty(self) -> None:
        if self._empty and self.is_empty:
            futures, self._empty = self._empty, []
            for future in futures:
                if not future.done():
                    future.set_result(None)
