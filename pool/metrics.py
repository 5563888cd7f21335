"""The node's figures in Prometheus's text, collected when asked for from the plain counters of `pool.stats`.

Not here: counting. Each `Metrics` has a registry of its own, so that several platforms live in one process of tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pool.api_keys import DEFAULT_TENANT
from pool.disk import DiskFloor
from pool.functions import FunctionEntry
from pool.pools import Pools
from pool.redis_link import RedisLink
from pool.registry import Registry
from pool.stats import SECONDS, Histogram, NodeStats
from quilt_fn.states import InstanceState


class Metrics(Collector):
    def __init__(
        self,
        stats: NodeStats,
        registry: Registry,
        pools: Pools,
        link: RedisLink,
        leases: Callable[[], int],
        disk: DiskFloor,
    ) -> None:
        self._stats = stats
        self._registry = registry
        self._pools = pools
        self._link = link
        self._leases = leases
        self._disk = disk
        self._prometheus = CollectorRegistry()
        self._prometheus.register(self)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._prometheus)

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        yield from self._starts()
        yield from self._invocations()
        yield from self._pool_figures()
        yield GaugeMetricFamily("quilt_leases", "Leases that this node process holds.", self._leases())
        yield CounterMetricFamily(
            "quilt_records_dropped", "Records dropped while Redis was away.", self._stats.records_dropped
        )
        yield GaugeMetricFamily("quilt_redis_up", "Whether Redis answered last.", float(self._link.up))

        yield GaugeMetricFamily(
            "quilt_disk_free_bytes", "Room left on the disk of the state folder.", self._disk.free_bytes()
        )
        yield GaugeMetricFamily(
            "quilt_disk_reserve_bytes", "With less room than this nothing new is taken.", self._disk.reserve_bytes
        )

    def _starts(self) -> Iterable[Metric]:
        starts = CounterMetricFamily(
            "quilt_starts", "Instances started, by kind; warm: invocations that needed none.", labels=["kind"]
        )
        for kind, count in self._stats.starts.items():
            starts.add_metric([kind], count)
        yield starts
        yield CounterMetricFamily(
            "quilt_start_failures", "Starts that failed by every way.", self._stats.start_failures
        )
        seconds = HistogramMetricFamily("quilt_start_seconds", "How long a start took, by kind.", labels=["kind"])
        for kind, histogram in self._stats.start_seconds.items():
            seconds.add_metric([kind], _buckets(histogram), histogram.sum)
        yield seconds

    def _invocations(self) -> Iterable[Metric]:
        invocations = CounterMetricFamily(
            "quilt_invocations", "Invocations that are over, by status.", labels=["function", "status"]
        )
        for entry in self._registry.all():
            for status, count in entry.stats.invocations.items():
                if count:
                    invocations.add_metric([label(entry), status], count)
        yield invocations
        for name, text, histogram in (
            ("quilt_invocation_seconds", "How long an instance took to serve an invocation.", self._stats.run),
            ("quilt_queue_seconds", "How long an invocation waited for an instance.", self._stats.queue),
        ):
            yield HistogramMetricFamily(name, text, buckets=_buckets(histogram), sum_value=histogram.sum)

    def _pool_figures(self) -> Iterable[Metric]:
        queued = GaugeMetricFamily("quilt_queued", "Invocations that wait for an instance.", labels=["function"])
        instances = GaugeMetricFamily(
            "quilt_pool_instances", "Instances by state, over all versions.", labels=["function", "state"]
        )
        for entry in self._registry.all():
            counts = dict.fromkeys(InstanceState, 0)
            waiting = 0
            for pool in self._pools.of(entry.function_id):
                waiting += pool.queued
                counts[InstanceState.WARMING] += pool.warming
                for slot in pool.slots.values():
                    counts[slot.state] += 1
            queued.add_metric([label(entry)], waiting)
            for state, count in counts.items():
                instances.add_metric([label(entry), state], count)
        yield queued
        yield instances


def label(entry: FunctionEntry) -> str:
    """A function's name; with its tenant in front where that is not the default one, since names are a tenant's own."""
    return entry.name if entry.tenant_id == DEFAULT_TENANT else f"{entry.tenant_id}/{entry.name}"


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*(str(bound) for bound in SECONDS), "+Inf"]
    return list(zip(bounds, itertools.accumulate(histogram.counts), strict=True))
