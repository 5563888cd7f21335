"""A container's log on this node: the two files between which its init rotates, and their readers.

The format is that of `runtime/guest/init/capture.c`: 8 bytes of turn, then pieces of time (ns since 1970, 8 bytes),
length (4), stream (1) and bytes. Not here: who writes (init, over the descriptors that `open_files` gives).
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

FILE_LIMIT_BYTES = 8 << 20
"""Of each of the two files."""
LINE_LIMIT_BYTES = 64 * 1024
"""A longer line is told in parts."""
POLL_S = 0.2
TURN = struct.Struct("=Q")
HEAD = struct.Struct("=QIB")
FILES = ("a", "b")
STREAMS = {1: "stdout", 2: "stderr"}


@dataclass(frozen=True, slots=True)
class Line:
    """`t` in seconds since 1970: when its first byte was read."""

    t: float
    stream: str
    text: str


def open_files(folder: Path) -> tuple[int, int]:
    """Both files, made where they are not; the caller's to close. For `InitLink.set_log`. Blocking."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    first = os.open(folder / FILES[0], flags, 0o600)
    try:
        return first, os.open(folder / FILES[1], flags, 0o600)
    except OSError:
        os.close(first)
        raise


class ContainerLog:
    """The reader's side of the log in `folder`. Where there is no log there are no lines."""

    def __init__(self, folder: Path) -> None:
        self._files = [folder / name for name in FILES]

    async def lines(
        self, limit: int, *, follow: bool, ended: Callable[[], bool] = lambda: False
    ) -> AsyncIterator[Line]:
        """The last `limit` lines, oldest first; with `follow` what comes after them, until it is closed or has
        `ended`; what was written before that is told.
        """
        position = _Position()
        splitter = _Splitter()
        last: deque[Line] = deque(maxlen=limit)
        follow = follow and not ended()
        for piece in await asyncio.to_thread(self._read, position):
            last.extend(splitter.add(*piece))
        if not follow:
            last.extend(splitter.rest())
        for line in last:
            yield line
        while follow:
            follow = not ended()
            pieces = await asyncio.to_thread(self._read, position)
            for piece in pieces:
                for line in splitter.add(*piece):
                    yield line
            for line in splitter.stale() if follow else splitter.rest():
                yield line
            if follow and not pieces:
                await asyncio.sleep(POLL_S)

    def _read(self, position: _Position) -> list[tuple[float, int, bytes]]:
        """What was written since `position`, which moves on. What was rotated away meanwhile is not there."""
        found: list[tuple[float, int, bytes]] = []
        for turn, path in self._by_turn():
            if turn < position.turn:
                continue
            if turn > position.turn:
                position.turn, position.offset = turn, TURN.size
            try:
                file = path.open("rb")
            except FileNotFoundError:
                continue  # the container was deleted
            with file:
                if TURN.unpack(file.read(TURN.size).ljust(TURN.size, b"\0"))[0] != turn:
                    continue  # it was begun anew between the two looks: the next look finds it
                file.seek(position.offset)
                for when, stream, data in _pieces(file.read(2 * FILE_LIMIT_BYTES)):
                    found.append((when, stream, data))
                    position.offset += HEAD.size + len(data)
        return found

    def _by_turn(self) -> list[tuple[int, Path]]:
        turns = []
        for path in self._files:
            try:
                with path.open("rb") as file:
                    head = file.read(TURN.size)
            except FileNotFoundError:
                continue
            if len(head) == TURN.size:
                turns.append((TURN.unpack(head)[0], path))
        return sorted(turns)


@dataclass(slots=True)
class _Position:
    turn: int = 0
    offset: int = TURN.size


def _pieces(data: bytes) -> Iterator[tuple[float, int, bytes]]:
    """Whole pieces only: the last one may be in the middle of being written."""
    at = 0
    while at + HEAD.size <= len(data):
        when, length, stream = HEAD.unpack_from(data, at)
        end = at + HEAD.size + length
        if end > len(data):
            return
        yield when / 1e9, stream, data[at + HEAD.size : end]
        at = end


@dataclass(slots=True)
class _Splitter:
    """Pieces into lines, for each stream by itself."""

    begun: dict[int, tuple[float, float, bytes]] = field(default_factory=dict)
    """By stream: when the line began, when something came last (monotonic), its bytes so far."""

    def add(self, when: float, stream: int, data: bytes) -> Iterator[Line]:
        began, _, before = self.begun.pop(stream, (when, 0.0, b""))
        *whole, rest = (before + data).split(b"\n")
        for line in whole:
            yield _line(began, stream, line)
            began = when
        while len(rest) > LINE_LIMIT_BYTES:
            yield _line(began, stream, rest[:LINE_LIMIT_BYTES])
            rest, began = rest[LINE_LIMIT_BYTES:], when
        if rest:
            self.begun[stream] = began, time.monotonic(), rest

    def rest(self) -> Iterator[Line]:
        for stream, (began, _, data) in sorted(self.begun.items()):
            yield _line(began, stream, data)
        self.begun.clear()

    def stale(self, after_s: float = 1.0) -> Iterator[Line]:
        """Lines without an end that nothing was added to for a second: a prompt, say."""
        for stream, (began, came, data) in list(self.begun.items()):
            if time.monotonic() - came > after_s:
                del self.begun[stream]
                yield _line(began, stream, data)


def _line(t: float, stream: int, data: bytes) -> Line:
    return Line(t, STREAMS.get(stream, "stdout"), data.removesuffix(b"\r").decode("utf-8", "replace"))
