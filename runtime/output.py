"""stdout and stderr of one instance: two pipes, read as they fill, kept up to a limit for each invocation.

What is over the limit is read and thrown away, so that a handler that writes a gigabyte is slowed, not blocked, and
costs no memory.
"""

from __future__ import annotations

import asyncio
import os

LIMIT_BYTES = 1 << 20
"""Each of stdout and stderr of an invocation's record."""
_PIECE = 1 << 16


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

    def take(self) -> tuple[bytes, bool]:
        """(what was written, whether more was thrown away). Reads what is in the pipe first: it was written before the
        result.
        """
        while self._fd >= 0 and not self._truncated and self._read_one():
            pass
        if not self._size and not self._truncated:
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
