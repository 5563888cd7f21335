"""Bytes between descriptors and async iterators: files in threads of their own, pipes on the loop, memory bounded.

Not here: what is at the other end of a descriptor.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from quilt_fn.errors import FileNotThere, SpawnerError, VolumeFull

PIECE = 1 << 20
WRITEBACK = 16 << 20
"""So much is written before it is sent to the disk: else one upload fills the page cache, and its end takes long."""
T = TypeVar("T")
_threads = ThreadPoolExecutor(8, thread_name_prefix="volume-files")
"""Apart from the loop's own: a slow disk holds up nothing else."""


def full() -> VolumeFull:
    return VolumeFull("there is no room left for this in the volume, or on the disk below it")


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(_threads, work, *arguments)


async def fill(fd: int, body: AsyncIterator[bytes], reserve: int) -> int:
    """Write all of `body` to the file, to the disk; its size. VolumeFull before less than `reserve` is left."""
    size, waiting = 0, bytearray()
    try:
        async for piece in body:
            waiting += piece
            if len(waiting) >= PIECE:
                size += await in_thread(_append, fd, bytes(waiting), size, reserve)
                waiting.clear()
        size += await in_thread(_append, fd, bytes(waiting), size, reserve)
        await in_thread(os.fsync, fd)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full() from None
        if isinstance(error, ConnectionError):
            raise
        raise SpawnerError(f"the volume's disk could not be written: {error.strerror}") from None
    return size


def _append(fd: int, data: bytes, written: int, reserve: int) -> int:
    if reserve:
        free = os.fstatvfs(fd)
        if free.f_bavail * free.f_frsize < reserve + len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    if (written + len(data)) // WRITEBACK > written // WRITEBACK:
        os.fdatasync(fd)
    return len(data)


class DiskFile:
    """See runtime.volumes.api.OpenFile. Owns `fd`."""

    def __init__(self, fd: int, size: int, mode: int, modified_at: float) -> None:
        self._fd = fd
        self.size, self.mode, self.modified_at = size, mode, modified_at

    async def read(self, start: int, end: int) -> AsyncIterator[bytes]:
        while start < end:
            piece = await in_thread(os.pread, self._fd, min(PIECE, end - start), start)
            if not piece:
                raise FileNotThere("the file was made shorter while it was read")
            start += len(piece)
            yield piece

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def pipe() -> tuple[int, int]:
    """(read, write), as large as one may be made."""
    read, write = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(PermissionError):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIECE)
    return read, write


async def _ready(fd: int, done: asyncio.Future[Any], *, writable: bool) -> None:
    """Wait until the descriptor is ready, or `done` is."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def fire() -> None:
        if not ready.done():
            ready.set_result(None)

    (loop.add_writer if writable else loop.add_reader)(fd, fire)
    try:
        await asyncio.wait({ready, done}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        (loop.remove_writer if writable else loop.remove_reader)(fd)


async def feed(write: int, body: AsyncIterator[bytes], done: asyncio.Future[Any]) -> None:
    """Write `body` to the pipe until it or whoever reads (`done`) has ended."""
    os.set_blocking(write, False)
    async for piece in body:
        view = memoryview(piece)
        while view:
            if done.done():
                return
            try:
                view = view[os.write(write, view) :]
            except BlockingIOError:
                await _ready(write, done, writable=True)


async def drain(read: int, done: asyncio.Future[Any], close_writer: Callable[[], None]) -> AsyncIterator[bytes]:
    """What comes through the pipe until whoever writes (`done`) has ended. `close_writer` closes our own copy of its
    end, without which there is no end of file.
    """
    os.set_blocking(read, False)
    while True:
        if done.done():
            close_writer()
        try:
            piece = os.read(read, PIECE)
        except BlockingIOError:
            await _ready(read, done, writable=False)
            continue
        if not piece:
            return
        yield piece


async def first(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same pieces, the first of them read already: what raises at once raises here."""
    try:
        head = await anext(pieces)
    except StopAsyncIteration:
        head = b""

    async def rest() -> AsyncIterator[bytes]:
        try:
            yield head
            async for piece in pieces:
                yield piece
        finally:
            await closed(pieces)

    return rest()


async def closed(pieces: AsyncIterator[Any]) -> None:
    """Close an async generator; nothing where it is another iterator."""
    close: Callable[[], Awaitable[None]] | None = getattr(pieces, "aclose", None)
    if close is not None:
        await close()
