"""Archives between an HTTP body and an operation of the spawner, through a pipe, in bounded memory.

Not here: which operation (`store` for volumes, `runtime.containers.node` for containers).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from runtime.spawner.archives import WHOLE
from runtime.volumes import streams

ARCHIVE_TIMEOUT_S = 3600.0
AT_ONCE = 16
Ask = Callable[[list[int]], Coroutine[Any, Any, dict[str, Any]]]
"""Asks the spawner with the ends of pipes: the archive's, and of what goes in the one that says whether it is whole."""


class Archives:
    """So many at once; others wait their turn."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(AT_ONCE)

    async def into(self, ask: Ask, body: AsyncIterator[bytes]) -> dict[str, Any]:
        """Feed `body` to the operation; its answer. Raises what `ask` raises. Where `body` raises nothing was done."""
        async with self._places:
            read, write = streams.pipe()
            told, tell = os.pipe2(os.O_CLOEXEC)
            with contextlib.closing(_Descriptor(read)), contextlib.closing(_Descriptor(told)):
                asked = asyncio.create_task(ask([read, told]))
                try:
                    with contextlib.closing(_Descriptor(tell)), contextlib.closing(_Descriptor(write)):
                        if await _first(streams.feed(write, body, asked), asked):
                            os.write(tell, WHOLE)
                    return await asked
                finally:
                    await _ended(asked)

    async def out_of(self, ask: Ask) -> AsyncIterator[bytes]:
        """What the operation writes, piece by piece. Raises what `ask` raises, at the end of what came."""
        async with self._places:
            read, write = streams.pipe()
            ours, theirs = _Descriptor(read), _Descriptor(write)
            with contextlib.closing(ours), contextlib.closing(theirs):
                asked = asyncio.create_task(ask([write]))
                try:
                    async for piece in streams.drain(read, asked, theirs.close):
                        yield piece
                    await asked
                finally:
                    await _ended(asked)


class _Descriptor:
    """A descriptor that is closed once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


async def _first(work: Coroutine[Any, Any, None], other: asyncio.Future[Any]) -> bool:
    """Do `work`, which raises what it raises, or as much of it as there is time for until `other` is done: whether it
    came to its end.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task, other}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        return False
    finally:
        await _ended(task)


async def _ended(task: asyncio.Task[Any]) -> None:
    """Nobody waits for it any more, however it ended."""
    if not task.done():
        task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
