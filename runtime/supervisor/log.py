"""Where the lines of the supervisor and its children go: the terminal, or a file that is set aside when it is large.

Not here: the output of functions (pool).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Protocol


class Log(Protocol):
    def line(self, source: str, text: str) -> None: ...


def stamped(source: str, text: str) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {source:<10} {text}\n"


class TerminalLog:
    """Lines on stderr. A terminal that has gone away does not end the platform."""

    def line(self, source: str, text: str) -> None:
        try:
            sys.stderr.write(stamped(source, text))
            sys.stderr.flush()
        except OSError:
            return


class FileLog:
    """Lines in `path`; at `limit` bytes it becomes `<path>.1`, and what was there is dropped."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._file = path.open("ab", buffering=0)

    def line(self, source: str, text: str) -> None:
        if self._file.tell() >= self._limit:
            self._file.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._file = self._path.open("ab", buffering=0)
        try:
            self._file.write(stamped(source, text).encode(errors="replace"))
        except OSError as error:
            # A full disk: the platform goes on without its log, and says so where a service manager may hear it.
            print(f"quilt: {self._path}: {error.strerror}", file=sys.stderr)
