"""Shapes that the pool answers with, made from what it holds.

Not here: the function's record (`pool.functions`) and the invocation's (`pool.records`).
"""

from __future__ import annotations

from collections.abc import Iterable

from pool.dispatcher import VersionPool
from quilt_fn.model.function import PoolInstance, PoolRecord
from quilt_fn.states import InstanceState


def pool_record(function_id: str, pools: Iterable[VersionPool]) -> PoolRecord:
    """The pools of all of a function's versions as one record."""
    counts = dict.fromkeys(InstanceState, 0)
    queued = 0
    instances: list[PoolInstance] = []
    for pool in pools:
        queued += pool.queued
        counts[InstanceState.WARMING] += pool.warming
        for slot in pool.slots.values():
            counts[slot.state] += 1
            instances.append(
                PoolInstance(
                    instance_id=slot.instance.instance_id,
                    version=pool.spec.version,
                    state=slot.state,
                    start=slot.instance.start,
                    started_at=slot.instance.started_at,
                    invocations=slot.invocations,
                )
            )
    return PoolRecord(
        function_id=function_id,
        warming_count=counts[InstanceState.WARMING],
        ready_count=counts[InstanceState.READY],
        busy_count=counts[InstanceState.BUSY],
        recycling_count=counts[InstanceState.RECYCLING],
        terminating_count=counts[InstanceState.TERMINATING],
        total_count=sum(counts.values()),
        queued_count=queued,
        instances=instances,
    )
