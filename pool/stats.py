"""Plain counters and histograms that the hot path adds to; `pool.metrics` turns them into Prometheus's text.

Not here: anything with a lock or a label: those cost more than the invocation's own bookkeeping.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from quilt_fn.states import InvocationStatus, StartKind

SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip


class Histogram:
    """Counts by bucket; the last one is everything above."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def observe(self, value_s: float) -> None:
        self.counts[bisect_left(SECONDS, value_s)] += 1
        self.sum += value_s


@dataclass(slots=True)
class FunctionStats:
    """One function's, over all its versions, since this process began."""

    invocations: dict[str, int] = field(default_factory=lambda: dict.fromkeys(InvocationStatus, 0))
    last_invoked_at: float | None = None


@dataclass(slots=True)
class NodeStats:
    """The whole node's."""

    run: Histogram = field(default_factory=Histogram)
    queue: Histogram = field(default_factory=Histogram)
    starts: dict[StartKind, int] = field(default_factory=lambda: dict.fromkeys(StartKind, 0))
    start_seconds: dict[StartKind, Histogram] = field(
        default_factory=lambda: {kind: Histogram() for kind in StartKind if kind is not StartKind.WARM}
    )
    start_failures: int = 0
    records_dropped: int = 0
