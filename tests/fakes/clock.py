"""A clock that stands still until told to move, and the timers that are due then.

Not here: an event loop: callbacks run inside `advance`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from pool.clock import Clock


class FakeTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakeClock(Clock):
    def __init__(self, at: float = 1000.0) -> None:
        super().__init__()
        self.at = at
        self.now = lambda: self.at
        self.wall = lambda: self.at
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._order = itertools.count()

    def later(self, after_s: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(callback)
        heapq.heappush(self._timers, (self.at + max(0.0, after_s), next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Move on, and run what is due on the way, in order."""
        end = self.at + seconds
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self.at = max(self.at, due)
            if timer.callback is not None:
                timer.callback()
        self.at = end

    @property
    def pending(self) -> int:
        return sum(timer.callback is not None for _, _, timer in self._timers)
