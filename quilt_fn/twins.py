"""One async implementation, two ways to call it: `thing.method(...)` waits, `thing.method.aio(...)` is awaited.

Not here: any of the methods. All of them run on one background event loop, so that connections are shared between
both ways and never outlive a loop of the user's.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from quilt_fn.remote import RemoteTraceback

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")

EXIT_SECONDS = 2.0
"""How long open connections get to be closed when the interpreter ends."""


class _Background:
    """The event loop in a daemon thread, made at the first call; a forked child makes its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._at_exit: list[Callable[[], Awaitable[None]]] = []
        self._begun: weakref.WeakSet[AsyncGenerator[Any, None]] = weakref.WeakSet()
        """What somebody iterates over. Closed at the end of the loop: who lets go of one later finds it closed."""

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, args=(loop,), name="quilt", daemon=True)
                self._thread.start()
            return self._loop

    def inside(self) -> bool:
        """Whether the caller runs on the background loop's own thread."""
        return threading.current_thread() is self._thread

    def begun(self, items: AsyncGenerator[Any, None]) -> None:
        self._begun.add(items)

    def has_begun(self, items: AsyncGenerator[Any, None]) -> bool:
        """Whether it runs on the loop that is there now: then it is to be closed on it."""
        return items in self._begun

    def at_exit(self, close: Callable[[], Awaitable[None]]) -> None:
        self._at_exit.append(close)

    def stop(self) -> None:
        """Run what was registered for the exit, and end the loop. A later call starts a new one."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._close_all(), loop).result(EXIT_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(EXIT_SECONDS)

    def forked(self) -> None:
        # The parent's thread is not in the child; its loop and sessions are left alone, the parent goes on using them.
        _abandoned.append((self._loop, self._at_exit))
        self._lock = threading.Lock()
        self._loop = self._thread = None
        self._at_exit = []
        self._begun = weakref.WeakSet()

    async def _close_all(self) -> None:
        await self._close_begun()
        closers, self._at_exit = self._at_exit, []
        for close in closers:
            await close()

    async def _close_begun(self) -> None:
        others = asyncio.all_tasks()
        begun, self._begun = list(self._begun), weakref.WeakSet()
        for items in begun:
            with contextlib.suppress(RuntimeError):  # a thread still waits for its next: it ends with the loop
                await items.aclose()
        del begun
        await asyncio.sleep(0)  # what those iterated over themselves is closed by tasks that the loop makes now
        closing = asyncio.all_tasks() - others
        if closing:
            await asyncio.wait(closing, timeout=EXIT_SECONDS / 2)

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


_abandoned: list[object] = []
background = _Background()
atexit.register(background.stop)
os.register_at_fork(after_in_child=background.forked)


def _submit(coroutine: Coroutine[Any, Any, R]) -> concurrent.futures.Future[R]:
    if background.inside():
        coroutine.close()
        raise RuntimeError("this would wait for itself: inside Quilt's own event loop use the .aio form")
    return asyncio.run_coroutine_threadsafe(coroutine, background.loop())


def wait(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run `coroutine` on the background loop and wait for it; Ctrl-C cancels it."""
    future = _submit(coroutine)
    try:
        return future.result()
    except BaseException as error:
        future.cancel()
        raise _shortened(error) from error.__cause__


def _shortened(error: BaseException) -> BaseException:
    """An exception of the user's function without our own frames: its cause shows where it was raised."""
    return error.with_traceback(None) if isinstance(error.__cause__, RemoteTraceback) else error


async def _hop(coroutine: Coroutine[Any, Any, R]) -> R:
    """Await `coroutine`, run on the background loop, from whatever loop runs here."""
    if background.inside():
        return await coroutine
    try:
        return await asyncio.wrap_future(_submit(coroutine))
    except Exception as error:
        raise _shortened(error) from error.__cause__


async def _next(items: AsyncIterator[R]) -> tuple[bool, R | None]:
    # A StopAsyncIteration cannot be carried by a future, so that the end is said in words.
    try:
        return True, await anext(items)
    except StopAsyncIteration:
        return False, None


async def _aclose(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()


def _drain(items: AsyncGenerator[R, None]) -> Generator[R, None, None]:
    background.begun(items)
    try:
        while (found := wait(_next(items)))[0]:
            yield found[1]  # type: ignore[misc]
    finally:
        if background.has_begun(items):  # else its loop has ended, at the interpreter's end say, and closed it
            wait(_aclose(items))


async def _adrain(items: AsyncGenerator[R, None]) -> AsyncGenerator[R, None]:
    background.begun(items)
    try:
        while (found := await _hop(_next(items)))[0]:
            yield found[1]  # type: ignore[misc]
    finally:
        if background.has_begun(items):
            await _hop(_aclose(items))


class Call(Generic[P, R]):
    """A bound method with both ways to call it."""

    def __init__(self, implementation: Callable[P, Coroutine[Any, Any, R]]) -> None:
        self._implementation = implementation
        self.__doc__ = implementation.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return wait(self._implementation(*args, **kwargs))

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return await _hop(self._implementation(*args, **kwargs))


class Items(Generic[P, R]):
    """As Call, for what yields: an iterator, or with `.aio` an async iterator."""

    def __init__(self, implementation: Callable[P, AsyncGenerator[R, None]]) -> None:
        self._implementation = implementation
        self.__doc__ = implementation.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Generator[R, None, None]:
        return _drain(self._implementation(*args, **kwargs))

    def aio(self, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[R, None]:
        return _adrain(self._implementation(*args, **kwargs))


class both(Generic[S, P, R]):
    """Makes both ways of an async method: `@both async def get(self, …)`. Inside, `await self.get.aio(…)`."""

    def __init__(self, implementation: Callable[Concatenate[S, P], Coroutine[Any, Any, R]]) -> None:
        self._implementation = implementation
        self.__doc__ = implementation.__doc__
        self.__wrapped__ = implementation

    @overload
    def __get__(self, instance: None, owner: type) -> both[S, P, R]: ...

    @overload
    def __get__(self, instance: S, owner: type) -> Call[P, R]: ...

    def __get__(self, instance: S | None, owner: type) -> both[S, P, R] | Call[P, R]:
        return self if instance is None else Call(self._implementation.__get__(instance, owner))


class both_items(Generic[S, P, R]):
    """As `both`, for an async generator method."""

    def __init__(self, implementation: Callable[Concatenate[S, P], AsyncGenerator[R, None]]) -> None:
        self._implementation = implementation
        self.__doc__ = implementation.__doc__
        self.__wrapped__ = implementation

    @overload
    def __get__(self, instance: None, owner: type) -> both_items[S, P, R]: ...

    @overload
    def __get__(self, instance: S, owner: type) -> Items[P, R]: ...

    def __get__(self, instance: S | None, owner: type) -> both_items[S, P, R] | Items[P, R]:
        return self if instance is None else Items(self._implementation.__get__(instance, owner))


class Closed:
    """A context manager, sync and async, that closes what it is at the end."""

    close: Any
    """A `both` of the class that extends this."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close.aio()
