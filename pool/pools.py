"""The pools of this node's functions: which there are, and which a call goes to. Derived from the registry's entries.

Not here: decisions inside a pool. `refresh` is the one place that turns a function's state into pools and a Target.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from pool.api import Target
from pool.clock import Clock
from pool.dispatcher import VersionPool
from pool.executor import RuntimeExecutor
from pool.functions import FunctionEntry, VersionEntry
from quilt_fn.errors import FunctionNotFound, QuiltError
from quilt_fn.states import FunctionState, VersionState


class Pools:
    def __init__(self, executor: RuntimeExecutor, clock: Clock) -> None:
        self._executor = executor
        self._clock = clock
        self._pools: dict[str, VersionPool] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}

    def refresh(self, entry: FunctionEntry) -> None:
        """Bring the function's pools and Target into line with its entry. Idempotent."""
        serving = self._serving(entry)
        for pool in self.of(entry.function_id):
            if serving is None or pool.spec.version != serving.number:
                version = entry.versions.get(pool.spec.version)
                if version is not None and version.state is VersionState.READY and not pool.opened:
                    pool.open()  # overtaken by a newer version while it was built: it still serves those who wait
                self._drain(pool)
        if serving is None:
            entry.target = None
            return
        spec = entry.version_spec(serving)
        pool_or_none = self._pools.get(spec.key)
        opened = serving.state is VersionState.READY
        limits = entry.limits(serving)
        if pool_or_none is None or pool_or_none.ended is not None:
            pool = VersionPool(spec, limits, self._executor, self._clock, entry.stats, opened=False)
            self._pools[spec.key] = pool
        else:
            pool = pool_or_none
            pool.apply(limits)
        entry.target = Target(
            tenant_id=entry.tenant_id,
            function_id=entry.function_id,
            function_name=entry.name,
            version=serving.number,
            timeout_seconds=serving.spec.timeout_seconds,
            public=serving.spec.auth == "public",
            wants_request=bool(serving.built.get("wants_request", True)),  # not known before it is built
            pool=pool,
            python=self._executor.python(),
        )
        if pool.draining:
            pool.undrain()
        if opened:
            pool.open()

    @staticmethod
    def _serving(entry: FunctionEntry) -> VersionEntry | None:
        """The version that calls go to: the current one, or the first one while it is built."""
        state = entry.state
        if state is FunctionState.ACTIVE or (state is FunctionState.DEPLOYING and not entry.asked):
            current = entry.current_version
            if current is not None:
                return current
            building = [each for each in entry.versions.values() if each.state is VersionState.BUILDING]
            return max(building, key=lambda each: each.number, default=None)
        return None

    def fail_building(self, key: str, error: QuiltError) -> None:
        """End the pool that waited for a build that failed: those who wait in it get `error`."""
        pool = self._pools.get(key)
        if pool is not None and not pool.opened:
            pool.end(error)
            del self._pools[key]

    def current(self, entry: FunctionEntry) -> VersionPool | None:
        return entry.target.pool if entry.target is not None else None

    def of(self, function_id: str) -> list[VersionPool]:
        return [pool for pool in self._pools.values() if pool.spec.function_id == function_id]

    def all(self) -> Iterator[VersionPool]:
        return iter(list(self._pools.values()))

    def _drain(self, pool: VersionPool) -> None:
        if not pool.draining:
            pool.drain()
        if pool.is_empty:
            self._pools.pop(pool.spec.key, None)
        elif pool.spec.key not in self._watchers:
            task = asyncio.get_running_loop().create_task(self._remove_when_empty(pool))
            self._watchers[pool.spec.key] = task
            task.add_done_callback(lambda _: self._watchers.pop(pool.spec.key, None))

    async def _remove_when_empty(self, pool: VersionPool) -> None:
        await pool.drained()
        if pool.draining and self._pools.get(pool.spec.key) is pool:
            del self._pools[pool.spec.key]

    async def drained(self, key: str) -> None:
        """Return when the pool of that version has gone."""
        pool = self._pools.get(key)
        if pool is not None:
            await pool.drained()

    async def close_function(self, entry: FunctionEntry, limit_s: float) -> None:
        """Let what runs run for `limit_s`, then end it."""
        pools = self.of(entry.function_id)
        await self._close(pools, limit_s, FunctionNotFound(f"function {entry.name} has been deleted"))

    async def _close(self, pools: list[VersionPool], limit_s: float, error: QuiltError) -> None:
        for pool in pools:
            if pool.opened:
                pool.drain()
            else:
                pool.end(error)  # its version is not going to be built
        waits = [asyncio.ensure_future(pool.drained()) for pool in pools]
        if waits:
            _, pending = await asyncio.wait(waits, timeout=limit_s)
            for pool in pools:
                pool.end(error)
            if pending:
                await asyncio.wait(pending, timeout=5.0)
            for wait in waits:
                wait.cancel()
        for pool in pools:
            self._pools.pop(pool.spec.key, None)

    async def close(self, limit_s: float, error: QuiltError) -> None:
        """All of them."""
        await self._close(list(self._pools.values()), limit_s, error)
        watchers = list(self._watchers.values())
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
