"""Brings what is there into line with what is written: once at the start, then each second.

Not here: the decisions about instances (`pool.scaler`); the tick only makes pools look again, with fresh figures.
"""

from __future__ import annotations

import asyncio
import logging

from pool.clock import Clock
from pool.deploy import SNAPSHOTS_KEPT, Deployer
from pool.dispatcher import VersionPool
from pool.functions import ASKED_DELETING, FunctionEntry
from pool.pools import Pools
from pool.redis_link import RedisLink
from pool.registry import Registry
from quilt_fn.errors import QuiltError
from quilt_fn.states import VersionState
from runtime.api import FunctionRuntime, VersionSpec

log = logging.getLogger(__name__)

TICK_S = 1.0
MEMORY_EVERY_TICKS = 10
RATE_WEIGHT = 0.3
RESTARTED = "NODE_RESTARTED: the node restarted while this version was being built; deploy it again"


class Reconciler:
    def __init__(
        self,
        link: RedisLink,
        registry: Registry,
        runtime: FunctionRuntime,
        pools: Pools,
        deployer: Deployer,
        clock: Clock,
    ) -> None:
        self._link = link
        self._registry = registry
        self._runtime = runtime
        self._pools = pools
        self._deployer = deployer
        self._clock = clock
        self._arrivals: dict[str, int] = {}
        self._ticks = 0
        self._ticked_at = clock.now()

    async def restore(self) -> None:
        """At the start, with the lease taken: load, end what nobody owns, fail what was cut short, open the pools."""
        await self._registry.load()
        entries = list(self._registry.all())
        kept: list[VersionSpec] = []
        for entry in entries:
            for version in entry.versions.values():
                if version.state is VersionState.BUILDING:
                    await self._registry.move_version(entry, version.number, VersionState.FAILED, error=RESTARTED)
            if entry.asked != ASKED_DELETING:
                kept += kept_specs(entry)
        ended = await self._runtime.keep_only(kept)
        if ended:
            log.info("ended what no version owns: %s", ", ".join(ended))
        for entry in entries:
            if entry.asked == ASKED_DELETING:
                await self._deployer.finish_delete(entry)
            else:
                self._pools.refresh(entry)

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            await self.tick()

    async def tick(self) -> None:
        """One look at everything."""
        self._ticks += 1
        now = self._clock.now()
        passed_s, self._ticked_at = max(now - self._ticked_at, 1e-3), now
        seen: dict[str, int] = {}
        for pool in self._pools.all():
            key = pool.spec.key
            seen[key] = pool.arrivals
            rate = (pool.arrivals - self._arrivals.get(key, 0)) / passed_s
            pool.arrivals_per_s += (rate - pool.arrivals_per_s) * RATE_WEIGHT
            if self._ticks % MEMORY_EVERY_TICKS == 0:
                look_at_memory(pool)
            pool.consider()
        self._arrivals = seen
        if self._link.up:
            try:
                await self._link.tidy()
                await self._deployer.settle()
            except QuiltError as error:
                log.info("later: %s", error.message)


def kept_specs(entry: FunctionEntry) -> list[VersionSpec]:
    """The versions whose templates and snapshots stay: the current one, and the newest ready ones."""
    ready = sorted(number for number, each in entry.versions.items() if each.state is VersionState.READY)
    numbers = {*ready[-SNAPSHOTS_KEPT:], entry.current} - {0}
    return [entry.version_spec(entry.versions[number]) for number in sorted(numbers) if number in entry.versions]


def look_at_memory(pool: VersionPool) -> None:
    """Mark the idle instances that have grown by more than their version allows since they first were idle."""
    limit = pool.limits.recycle_memory_growth_bytes
    if limit is None:
        return
    for slot in pool.idle:
        memory = slot.instance.memory_bytes()
        if memory is None:
            continue
        if slot.first_memory is None:
            slot.first_memory = memory
        elif memory - slot.first_memory > limit:
            slot.used_up = f"grew by more than {limit >> 20} MB"
