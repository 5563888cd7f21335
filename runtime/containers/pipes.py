"""The outer ends of a command's pipes and terminals on the loop: read when somebody asks, written as far as they take.

Nobody reads ahead: a pipe whose reader waits fills up, and then its writer waits. That is the backpressure of exec.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import fcntl
import os
import termios

PIECE_BYTES = 64 * 1024
ROOMY_PIPE_BYTES = 1 << 20
DISCARD_PAUSE_S = 0.02
LEFTOVERS = 256
"""How many pipes of ended commands are kept open for the background children that still write to them."""


class Source:
    """One descriptor to read, by one reader at a time. Owns it: `close` closes it, `release` gives it away."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._left: int | None = None
        """Bytes that may still be read, once the command has ended."""
        self.at_end = False

    async def read(self, limit: int = PIECE_BYTES) -> bytes:
        """The next piece; empty at the end (of the file, of a terminal, or of what `finish` left)."""
        while not self.at_end and self._left != 0:
            try:
                piece = os.read(self.fd, limit if self._left is None else min(limit, self._left))
            except BlockingIOError:
                if self._left is not None:
                    return b""
                await self._readable()
                continue
            except OSError as error:
                if error.errno != errno.EIO:  # how a terminal says that nobody has its inner side open
                    raise
                piece = b""
            if self._left is not None:
                self._left -= len(piece)
            self.at_end = not piece
            return piece
        return b""

    def finish(self) -> None:
        """The command has ended: only what stands in the pipe now is its own. Its children may go on writing."""
        if self._left is None and self.fd >= 0:
            waiting = array.array("i", [0])
            fcntl.ioctl(self.fd, termios.FIONREAD, waiting)
            self._left = waiting[0]
            self._wake()

    def close(self) -> None:
        """Idempotent. A reader that waits is told that this is the end."""
        fd = self.release()
        if fd >= 0:
            os.close(fd)

    def release(self) -> int:
        """The descriptor, now the caller's; -1 where it was closed."""
        fd, self.fd, self.at_end = self.fd, -1, True
        if self._waiter is not None:
            self._loop.remove_reader(fd)
        self._wake()
        return fd

    async def _readable(self) -> None:
        self._waiter = self._loop.create_future()
        self._loop.add_reader(self.fd, self._wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if self.fd >= 0:
                self._loop.remove_reader(self.fd)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Sink:
    """One descriptor to write. `close` is the command's end of file."""

    def __init__(self, fd: int, *, owned: bool = True) -> None:
        self.fd = fd
        self._owned = owned
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> bool:
        """All of `data`, as fast as the command takes it; False where nobody will read it any more."""
        rest = memoryview(data)
        while rest:
            if self.fd < 0:
                return False
            try:
                rest = rest[os.write(self.fd, rest) :]
            except BlockingIOError:
                await self._writable()
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EIO):
                    raise
                return False
        return True

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        if self._waiter is not None:
            self._loop.remove_writer(fd)
            self._wake()
        if self._owned:
            os.close(fd)

    async def _writable(self) -> None:
        self._waiter = self._loop.create_future()
        self._loop.add_writer(self.fd, self._wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if self.fd >= 0:
                self._loop.remove_writer(self.fd)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Leftovers:
    """The pipes that background children hold after their command has ended: read and thrown away, so that a server
    started with `&` is not ended by the first line that it logs. Slowly, and for the newest `LEFTOVERS` only.
    """

    def __init__(self) -> None:
        self._fds: dict[int, asyncio.TimerHandle | None] = {}

    def keep(self, source: Source) -> None:
        """Takes the descriptor over; one at its end is closed."""
        if source.at_end:
            source.close()
            return
        while len(self._fds) >= LEFTOVERS:
            self._drop(next(iter(self._fds)))
        fd = source.release()
        self._fds[fd] = None
        asyncio.get_running_loop().add_reader(fd, self._discard, fd)

    def close(self) -> None:
        for fd in list(self._fds):
            self._drop(fd)

    def _discard(self, fd: int) -> None:
        asyncio.get_running_loop().remove_reader(fd)
        if discard(fd):
            self._fds[fd] = asyncio.get_running_loop().call_later(DISCARD_PAUSE_S, self._again, fd)
        else:
            self._drop(fd)

    def _again(self, fd: int) -> None:
        self._fds[fd] = None
        asyncio.get_running_loop().add_reader(fd, self._discard, fd)

    def _drop(self, fd: int) -> None:
        timer = self._fds.pop(fd)
        if timer is None:
            asyncio.get_running_loop().remove_reader(fd)
        else:
            timer.cancel()
        os.close(fd)


def discard(fd: int) -> bool:
    """Read once and forget it; False at the end."""
    try:
        return bool(os.read(fd, PIECE_BYTES))
    except BlockingIOError:
        return True
    except OSError:
        return False


def make_roomy(fd: int) -> None:
    """A larger pipe, where the system's limit for its owner allows one."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, ROOMY_PIPE_BYTES)
