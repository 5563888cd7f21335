"""Kits in stock: instance roots and cgroups that the spawner made ahead, so that a fork finds them ready.

Not here: what a kit is made of (the spawner). A kit stands on one snapshot's frozen layer, so there is a stock for
each.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from dataclasses import dataclass
from typing import Any

from quilt_fn.errors import SpawnerError
from quilt_fn.model.common import new_id
from runtime.spawner_client import SpawnerClient, SpawnerFailed

REFILL_DELAY_S = 0.02
"""The stock is filled when the start that took from it is through: making a kit would take its processor."""
BATCH = 8


@dataclass(slots=True)
class Kit:
    """Descriptors that are closed once they were handed to the template, and the gauge that stays with the instance."""

    kit_id: str
    root: int
    gauge: int
    doors: list[int]

    def close_handed_over(self) -> None:
        for fd in (self.root, *self.doors):
            os.close(fd)


async def end(spawner: SpawnerClient, kit_id: str) -> int:
    """Kill what runs in a kit and take it away; how many of it the kernel killed for memory. Raises SpawnerError.

    Where the spawner is away nobody waits for it: the next one takes the kit, because it is not named to it any more.
    """
    spawner.kits.discard(kit_id)
    if not spawner.connected:
        return 0
    answer, _ = await spawner.request("end", kit=kit_id)
    return int(answer["oom_kills"])


class KitStock:
    """The stock of one snapshot with one set of limits and volumes."""

    def __init__(self, spawner: SpawnerClient, snapshot: str, limits: dict[str, Any], wanted: int) -> None:
        self._spawner = spawner
        self._snapshot = snapshot
        self._limits = limits
        self.wanted = wanted
        self._ready: deque[Kit] = deque()
        self._waiters: deque[asyncio.Future[Kit]] = deque()
        self._making = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._refill: asyncio.TimerHandle | None = None
        self._closed = False

    async def take(self) -> Kit:
        """A kit, from the stock or made now. Raises SpawnerError."""
        self._refill_soon()
        if self._ready:
            return self._ready.popleft()
        future: asyncio.Future[Kit] = asyncio.get_running_loop().create_future()
        self._waiters.append(future)
        if self._making < len(self._waiters):
            # All who ask in this turn of the loop share the requests.
            asyncio.get_running_loop().call_soon(self._make_for_waiters)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._put(future.result())
            raise

    def fill(self) -> None:
        """Make what is missing from the stock, now."""
        if not self._closed:
            self._make(self.wanted - len(self._ready) - self._making)

    async def close(self) -> None:
        """Give back what is in stock, for good. Idempotent."""
        self._closed = True
        await self.empty()

    async def empty(self) -> None:
        """Give back what is in stock."""
        if self._refill is not None:
            self._refill.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        while self._ready:
            kit = self._ready.popleft()
            kit.close_handed_over()
            os.close(kit.gauge)
            with contextlib.suppress(SpawnerError):
                await end(self._spawner, kit.kit_id)

    def _refill_soon(self) -> None:
        if self._refill is not None:
            self._refill.cancel()
        self._refill = asyncio.get_running_loop().call_later(REFILL_DELAY_S, self.fill)

    def _make_for_waiters(self) -> None:
        self._make(len([w for w in self._waiters if not w.done()]) - self._making)

    def _make(self, count: int) -> None:
        while count > 0:
            batch = min(count, BATCH)
            count -= batch
            self._making += batch
            task = asyncio.create_task(self._make_batch(batch), name=f"kits of {self._snapshot}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _make_batch(self, count: int) -> None:
        names = [new_id("ins") for _ in range(count)]
        self._spawner.kits.update(names)
        try:
            answer, fds = await self._spawner.request("kits", kits=names, snapshot=self._snapshot, **self._limits)
        except SpawnerError as error:
            self._making -= count
            self._spawner.kits.difference_update(names)
            while count and self._waiters:
                future = self._waiters.popleft()
                if not future.done():
                    future.set_exception(error)
                    count -= 1
            if isinstance(error, SpawnerFailed) and error.kind == "died":  # some of them may have been made
                for name in names:
                    with contextlib.suppress(SpawnerError):
                        await end(self._spawner, name)
            return
        self._making -= count
        size = 2 + int(answer["doors"])
        for index, name in enumerate(names):
            root, gauge, *doors = fds[index * size : (index + 1) * size]
            self._put(Kit(name, root, gauge, doors))

    def _put(self, kit: Kit) -> None:
        while self._waiters:
            future = self._waiters.popleft()
            if not future.done():
                future.set_result(kit)
                return
        self._ready.append(kit)
