"""A child's output as lines, read when it comes and until the last process that holds it has closed it.

Not here: where the lines go (`log`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import IO

LINE_LIMIT = 1 << 16
READ_BYTES = 1 << 16


class Lines:
    """Hands each line of `pipe` to `take`. Owns the pipe, and closes it at its end."""

    def __init__(self, pipe: IO[bytes], take: Callable[[str], None]) -> None:
        self._pipe = pipe
        self._take = take
        self._rest = b""
        os.set_blocking(pipe.fileno(), False)
        asyncio.get_running_loop().add_reader(pipe.fileno(), self._read)

    def close(self) -> None:
        """Take what is there and close. Idempotent."""
        while self._read():
            pass
        self._end()

    def _read(self) -> bool:
        """One piece; whether there may be more."""
        if self._pipe.closed:
            return False
        try:
            piece = os.read(self._pipe.fileno(), READ_BYTES)
        except BlockingIOError:
            return False
        if not piece:
            self._end()
            return False
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > LINE_LIMIT:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            self._take(line.decode(errors="replace"))
        return True

    def _end(self) -> None:
        """Idempotent: what is left may end with the last words, or was read to its end before."""
        if self._pipe.closed:
            return
        asyncio.get_running_loop().remove_reader(self._pipe.fileno())
        if self._rest:
            self._take(self._rest.decode(errors="replace"))
            self._rest = b""
        self._pipe.close()
