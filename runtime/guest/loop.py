"""The one event loop of a guest, for async handlers and ASGI apps; made when it is first needed.

It outlives a call, so what a handler keeps in it (a connection pool, say) is there for the next; between calls it
stands still. It may be made in a template: it holds no epoll descriptor, and each fork makes a wake-up pipe of its own.
"""

from __future__ import annotations

import asyncio
import os
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class GuestLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, whatever policy user code sets: uvloop holds an io_uring, which CRIU can't take."""

    def __init__(self) -> None:
        super().__init__(selectors.PollSelector())
        os.register_at_fork(after_in_child=self.after_fork)

    def descriptors(self) -> set[int]:
        """Its wake-up sockets, which no finding of the fork audit should name."""
        return {self._ssock.fileno(), self._csock.fileno()}  # type: ignore[attr-defined]

    def after_fork(self) -> None:
        """Replace the wake-up sockets, which a fork shares. asyncio has no public way to do that."""
        if self.is_closed():
            return
        self._close_self_pipe()  # type: ignore[attr-defined]
        self._make_self_pipe()  # type: ignore[attr-defined]


_loop: GuestLoop | None = None


def current() -> GuestLoop | None:
    """The loop, where one was needed."""
    return _loop


def get() -> GuestLoop:
    global _loop
    if _loop is None or _loop.is_closed():
        _loop = GuestLoop()
        asyncio.set_event_loop(_loop)
    return _loop


def run(awaitable: Any) -> Any:
    """What `awaitable` comes to; its exception is raised, a SystemExit too."""
    loop = get()
    return loop.run_until_complete(awaitable if asyncio.iscoroutine(awaitable) else _wait(awaitable))


async def _wait(awaitable: Any) -> Any:
    return await awaitable


def close() -> None:
    """End every task that still waits in the loop, then the loop."""
    global _loop
    ending, _loop = _loop, None
    if ending is None or ending.is_closed():
        return
    waiting = asyncio.all_tasks(ending)
    for task in waiting:
        task.cancel()
    ending.run_until_complete(_gathered(waiting))
    ending.run_until_complete(ending.shutdown_asyncgens())
    ending.close()
    asyncio.set_event_loop(None)


async def _gathered(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def background(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that goes on whenever the loop runs."""
    return get().create_task(coroutine)
