"""Those who wait for an instance of one version: in order of their coming, each until a deadline of its own.

Not here: who may wait, and when an instance is free (`pool.dispatcher`).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pool.clock import Clock, Timer
from pool.slots import Slot
from quilt_fn.errors import InternalError, QuiltError
from quilt_fn.states import StartKind


@dataclass(slots=True)
class Turn:
    """An instance for a waiter, and how it came to be for it."""

    slot: Slot
    start: StartKind
    queue_ms: float
    start_ms: float


class Waiter:
    """A place in the queue. `turn` gives a Turn, or raises InvocationTimeout, StartFailed or what ended the pool."""

    __slots__ = ("deadline", "since", "turn")

    def __init__(self, turn: asyncio.Future[Turn], since: float, deadline: float) -> None:
        self.turn = turn
        self.since = since
        self.deadline = deadline


class Queue:
    """`count` of them wait. Who is overdue gets the error that `overdue(seconds waited)` makes, and then `left` is
    called.
    """

    def __init__(self, clock: Clock, overdue: Callable[[float], QuiltError], left: Callable[[], None]) -> None:
        self.count = 0
        self._clock = clock
        self._overdue = overdue
        self._left = left
        self._waiters: deque[Waiter] = deque()
        self._watched = math.inf
        self._timer: Timer | None = None

    def add(self, now: float, deadline: float) -> Waiter:
        """The last place, from `now` on (the clock's) until `deadline` (epoch s)."""
        waiter = Waiter(asyncio.get_running_loop().create_future(), now, deadline)
        if deadline < self._watched:
            self._watch(deadline)
        self._waiters.append(waiter)
        self.count += 1
        return waiter

    def first(self) -> Waiter | None:
        """Who is next."""
        waiters = self._waiters
        while waiters:
            if not waiters[0].turn.done():
                return waiters[0]
            waiters.popleft()
        return None

    def hand_over(self, slot: Slot, start: StartKind, start_ms: float) -> None:
        """Give a busy slot to the first. Raises InternalError where nobody waits."""
        waiter = self.first()
        if waiter is None:
            raise InternalError(f"{self.count} are queued, but none waits for {slot.instance.instance_id}")
        self._waiters.popleft()
        self.count -= 1
        waited_ms = (self._clock.now() - waiter.since) * 1000
        start_ms = min(start_ms, waited_ms)
        waiter.turn.set_result(Turn(slot, start, waited_ms - start_ms, start_ms))

    def fail_all(self, error: QuiltError) -> None:
        while (waiter := self.first()) is not None:
            self._fail(waiter, error)

    def end(self, error: QuiltError) -> None:
        """Fail all; nobody is added any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.fail_all(error)

    def _fail(self, waiter: Waiter, error: QuiltError) -> None:
        self.count -= 1
        waiter.turn.set_exception(again(error))

    def _watch(self, deadline: float) -> None:
        """Look at `deadline` (epoch s) who is overdue: one timer for all, since most waiters are served long before."""
        if self._timer is not None:
            self._timer.cancel()
        self._watched = deadline
        self._timer = self._clock.later(deadline - self._clock.wall(), self._expire)

    def _expire(self) -> None:
        self._watched, self._timer = math.inf, None
        wall, now = self._clock.wall(), self._clock.now()
        for waiter in list(self._waiters):
            if not waiter.turn.done() and waiter.deadline <= wall:
                self._fail(waiter, self._overdue(now - waiter.since))
        waiting = [waiter.deadline for waiter in self._waiters if not waiter.turn.done()]
        if waiting:
            self._watch(min(waiting))
        self._left()


def again(error: QuiltError) -> QuiltError:
    """A copy to raise: one exception raised many times grows a traceback for each."""
    return type(error)(error.message, details=error.details, hint=error.hint, retry_after=error.retry_after)
