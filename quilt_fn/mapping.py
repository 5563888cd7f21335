"""Many calls at once, no more than so many at a time: the results in order, or as they come.

Not here: what a call is. Pure asyncio.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sized
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 4
"""Times the limit: how many results may wait for a slow first one, or a slow reader, before no further call begins."""


async def bounded(
    items: Iterable[T],
    call: Callable[[T], Coroutine[Any, Any, R]],
    *,
    limit: int,
    ordered: bool,
    return_exceptions: bool,
) -> AsyncGenerator[R | Exception, None]:
    """Yield `call(item)` for each item, at most `limit` at once.

    The first exception ends it and cancels the calls that run, unless they are returned in their places. Closing it
    early cancels them too. `items` is read no further than needed; it is not read on the event loop's thread unless it
    is a collection, so it may block.
    """
    gate = asyncio.Semaphore(limit)
    source = _Source(items)
    running: deque[asyncio.Task[R]] = deque()
    fetching: asyncio.Task[tuple[bool, Any]] | None = None

    async def one(item: T) -> R:
        async with gate:
            return await call(item)

    try:
        while True:
            if fetching is None and not source.ended and len(running) < limit * AHEAD:
                fetching = asyncio.create_task(source.next())
            waited: list[asyncio.Task[Any]] = [running[0]] if ordered and running else list(running)
            if fetching is not None:
                waited.append(fetching)
            if not waited:
                return
            finished: set[asyncio.Task[Any]]
            finished, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if fetching is not None and fetching.done():
                found, item = fetching.result()
                fetching = None
                if found:
                    running.append(asyncio.create_task(one(item)))
            for task in [task for task in running if task in finished]:  # in the order in which they began
                running.remove(task)
                error = task.exception()
                if error is None:
                    yield task.result()
                elif return_exceptions and isinstance(error, Exception):
                    yield error
                else:
                    raise error
    finally:
        left: list[asyncio.Task[Any]] = [*running, *([fetching] if fetching is not None else [])]
        for unfinished in left:
            unfinished.cancel()
        await asyncio.gather(*left, return_exceptions=True)


class _Source:
    """`next` over any iterable, in a thread where its items have to be made first."""

    def __init__(self, items: Iterable[Any]) -> None:
        if hasattr(items, "__aiter__"):
            raise TypeError("map takes a plain iterable, not an async one: collect its items first")
        self._items: Iterator[Any] = iter(items)
        self._quick = isinstance(items, Sized)
        self.ended = False

    async def next(self) -> tuple[bool, Any]:
        found, item = self._next() if self._quick else await asyncio.to_thread(self._next)
        self.ended = not found
        return found, item

    def _next(self) -> tuple[bool, Any]:
        for item in self._items:
            return True, item
        return False, None
