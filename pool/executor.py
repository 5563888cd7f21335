"""Carries out what the scaler decided: begins starts and ends of instances as tasks that it owns.

Not here: any decision. A failure of a start goes back to its pool; ends never fail (the Instance contract).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from pool.clock import Clock
from pool.dispatcher import VersionPool
from pool.slots import Slot
from pool.stats import NodeStats
from quilt_fn.errors import QuiltError, StartFailed
from quilt_fn.states import InstanceState, StartKind
from runtime.api import FunctionRuntime, VersionSpec

log = logging.getLogger(__name__)


class RuntimeExecutor:
    """The `Executor` of every pool of this node."""

    def __init__(self, runtime: FunctionRuntime, clock: Clock, stats: NodeStats) -> None:
        self._runtime = runtime
        self._clock = clock
        self._stats = stats
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, pool: VersionPool, count: int) -> None:
        for _ in range(count):
            self._own(self._start(pool))

    def end(self, slot: Slot, reason: str) -> None:
        self._own(self._end(slot, reason))

    def ways(self, spec: VersionSpec) -> list[StartKind]:
        return self._runtime.ways(spec)

    def python(self) -> str | None:
        """The minor version of the Python that instances run on, where the runtime knows it."""
        found = self._runtime.features().get("images", {}).get("python")
        return None if found is None else str(found)

    async def _start(self, pool: VersionPool) -> None:
        began = self._clock.now()
        try:
            instance = await self._runtime.start(pool.spec)
        except QuiltError as error:
            self._stats.start_failures += 1
            log.warning("%s: start failed: %s", pool.spec.key, error.message)
            pool.start_failed(error.message, error if isinstance(error, StartFailed) else None)
            return
        except asyncio.CancelledError:
            pool.start_failed("the node is closing")
            raise
        except Exception as error:  # a bug in the runtime must not leave the pool counting a start that never comes
            log.exception("%s: start failed", pool.spec.key)
            pool.start_failed(f"internal error: {error!r}")
            return
        took_s = self._clock.now() - began
        self._stats.starts[instance.start] += 1
        self._stats.start_seconds[instance.start].observe(took_s)
        pool.started(instance, took_s)

    async def _end(self, slot: Slot, reason: str) -> None:
        if slot.state is InstanceState.RECYCLING:
            slot.move(InstanceState.TERMINATING)
        await slot.instance.close(reason)

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Let ends finish; starts that are under way are cancelled."""
        while self._tasks:
            tasks = list(self._tasks)
            _, pending = await asyncio.wait(tasks, timeout=5)
            for task in pending:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
