"""How many requests an API key may make: a token bucket for each, in this process, filled at a steady rate.

Not here: how much a tenant may have (`pool.quotas`). The node that a request comes to counts; a restart forgets.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from quilt_fn.errors import RateLimited
from quilt_fn.settings import Settings


class RateLimits:
    """`per_s` requests a second for each key, after `burst` at once."""

    def __init__(self, per_s: float, burst: int, now: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = float(max(1, burst))
        self._now = now
        self._buckets: dict[str, tuple[float, float]] = {}
        """Key id → (tokens left, when that was). At most one for each key that there is."""

    @classmethod
    def of(cls, settings: Settings) -> RateLimits | None:
        """None where there is no limit, so that the hot path has nothing to ask."""
        per_s = settings.rate_limit_per_s
        return cls(per_s, settings.rate_limit_burst) if per_s > 0 else None

    def take(self, key_id: str) -> None:
        """One request. Raises RateLimited, with the seconds until there is a token again."""
        now = self._now()
        left, then = self._buckets.get(key_id, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._per_s)
        if left < 1.0:
            self._buckets[key_id] = (left, now)
            raise RateLimited(
                f"this API key may make {self._per_s:g} requests a second",
                details={"per_s": self._per_s, "burst": int(self._burst)},
                retry_after=round((1.0 - left) / self._per_s, 3),
                hint="wait as long as Retry-After says; QUILT_RATE_LIMIT_PER_S sets the limit",
            )
        self._buckets[key_id] = (left - 1.0, now)
