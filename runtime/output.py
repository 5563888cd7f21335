"""stdout and stderr of one instance: two pipes, read as they fill, kept up to a limit for each invocation.

What is over the limit is read and thrown away, so that a handler that writes a gigabyte is slowed, not blocked, and
costs no memory.
"""

from __future__ import annotations

import asyncio
import os
import select

LIMIT_BYTES = 1 << 20
"""Each of stdout and stderr of an invocation's record."""
_PIECE = 1 << 16


class Output:
    """Both pipes of one instance. `take` gives what came on each since the last `take`, and whether there was more.

    Mostly a handler writes nothing: one system call for both says so.
    """

    __slots__ = ("_poll", "err", "out")

    def __init__(self, loop: asyncio.AbstractEventLoop, out: int, err: int) -> None:
        self.out, self.err = Pipe(loop, out), Pipe(loop, err)
        self._poll = select.poll()
        for fd in (out, err):
            self._poll.register(fd, select.POLLIN)

    def take(self) -> tuple[bytes, bytes, bool]:
        """(stdout, stderr, whether more of either was thrown away)."""
        if self.out.empty and self.err.empty and not self._poll.poll(0):
            return b"", b"", False
        (out, more_out), (err, more_err) = self.out.take(), self.err.take()
        return out, err, more_out or more_err

    def close(self) -> None:
        self.out.close()
        self.err.close()


class Pipe:
    """One of the two. `take` gives what came since the last `take`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, read: int) -> None:
        self._loop = loop
        self._fd = read
        self._pieces: list[bytes] = []
        self._size = 0
        self._truncated = False
        os.set_blocking(read, False)
        loop.add_reader(read, self._readable)

    def _readable(self) -> None:
        """One piece a turn, so that a flood never holds the loop."""
        if self._fd >= 0 and self._read_one() is None:
            self.close()

    def _read_one(self) -> bool | None:
        """True: more may be there. False: empty for now. None: the pipe has ended."""
        try:
            piece = os.read(self._fd, _PIECE)
        except BlockingIOError:
            return False
        if not piece:
            return None
        room = LIMIT_BYTES - self._size
        if len(piece) > room:
            self._truncated = True
            piece = piece[:room]
        if piece:
            self._pieces.append(piece)
            self._size += len(piece)
        return True

    @property
    def empty(self) -> bool:
        """Whether nothing was read yet; something may stand in the pipe."""
        return not self._size and not self._truncated

    def take(self) -> tuple[bytes, bool]:
        """(what was written, whether more was thrown away). Reads what is in the pipe first: it was written before the
        result.
        """
        while self._fd >= 0 and not self._truncated and self._read_one():
            pass
        if self.empty:
            return b"", False
        taken, truncated = b"".join(self._pieces), self._truncated
        self._pieces.clear()
        self._size = 0
        self._truncated = False
        return taken, truncated

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
