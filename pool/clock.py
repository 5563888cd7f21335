"""Time as the pool takes it, so that tests can hold it still: a monotonic clock, the wall's, and timers.

Not here: Redis's clock, which the scripts ask by themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock:
    """The real one. `now` is seconds of a monotonic clock, `wall` epoch seconds."""

    def __init__(self) -> None:
        self.now: Callable[[], float] = time.monotonic
        self.wall: Callable[[], float] = time.time

    def later(self, after_s: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` on the loop after so long, unless cancelled."""
        return asyncio.get_running_loop().call_later(max(0.0, after_s), callback)


def iso(epoch_s: float) -> str:
    """ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
