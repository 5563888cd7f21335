"""What functions print: NDJSON lines in rotated files below the node's folder, and followers of them.

Not here: the first 4 KiB that a record carries by itself (`pool.records`). File work is done in a thread.

A line is {t, stream, invocation_id, instance_id, text}; `part` stands in the file where no newline followed the
text, so that an invocation's output can be put together again as it was.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

FILES = 4
LINE_LIMIT = 64 * 1024
FOLLOWER_LIMIT = 10_000
_FUNCTION_ID = re.compile(r"fn_[0-9a-f]{20}")


@dataclass(frozen=True, slots=True)
class Output:
    """The output of one invocation, or (without one) of a build: to be kept."""

    function_id: str
    invocation_id: str | None
    instance_id: str | None
    t: float
    stdout: bytes
    stderr: bytes

    def lines(self) -> Iterator[dict[str, Any]]:
        for stream, content in (("stdout", self.stdout), ("stderr", self.stderr)):
            for text, whole in _split(content.decode("utf-8", "replace")):
                line: dict[str, Any] = {
                    "t": self.t,
                    "stream": stream,
                    "invocation_id": self.invocation_id,
                    "instance_id": self.instance_id,
                    "text": text,
                }
                if not whole:
                    line["part"] = True
                yield line


def _split(text: str) -> Iterator[tuple[str, bool]]:
    """(text, whether a newline followed), no piece longer than the limit."""
    start = 0
    while start < len(text):
        end = text.find("\n", start, start + LINE_LIMIT)
        if end < 0:
            yield text[start : start + LINE_LIMIT], False
            start += LINE_LIMIT
        else:
            yield text[start:end], True
            start = end + 1


class LogFiles:
    """`folder`/<function id>/current.ndjson, then 1, 2 and 3 older ones of at most `file_mb` each."""

    def __init__(self, folder: Path, file_mb: int) -> None:
        self._folder = folder
        self._file_bytes = max(1, file_mb) << 20
        self._lock = asyncio.Lock()
        self._followers: dict[str, set[asyncio.Queue[dict[str, Any] | None]]] = {}

    async def append(self, outputs: list[Output]) -> None:
        """Write and hand to the followers, in order. An OSError goes to the caller."""
        by_function: dict[str, list[Output]] = {}
        for output in outputs:
            by_function.setdefault(output.function_id, []).append(output)
        async with self._lock:
            await asyncio.to_thread(self._write, by_function)
            for function_id, written in by_function.items():
                for queue in self._followers.get(function_id, ()):
                    for output in written:
                        for line in output.lines():
                            if queue.full():
                                queue.get_nowait()
                            queue.put_nowait(line)

    def _write(self, by_function: dict[str, list[Output]]) -> None:
        for function_id, outputs in by_function.items():
            folder = self._of(function_id)
            folder.mkdir(parents=True, exist_ok=True)
            current = folder / "current.ndjson"
            for output in outputs:
                packed = b"".join(orjson.dumps(line) + b"\n" for line in output.lines())
                if current.exists() and current.stat().st_size + len(packed) > self._file_bytes:
                    self._rotate(folder)
                with current.open("ab") as file:
                    file.write(packed)

    @staticmethod
    def _rotate(folder: Path) -> None:
        for number in range(FILES - 1, 0, -1):
            newer = folder / (f"{number - 1}.ndjson" if number > 1 else "current.ndjson")
            if newer.exists():
                newer.replace(folder / f"{number}.ndjson")

    async def read(self, function_id: str, invocation_id: str | None, limit: int) -> list[dict[str, Any]]:
        """The last `limit` lines, oldest first."""
        async with self._lock:
            return await asyncio.to_thread(self._read, function_id, invocation_id, limit)

    def _read(self, function_id: str, invocation_id: str | None, limit: int) -> list[dict[str, Any]]:
        kept: deque[dict[str, Any]] = deque(maxlen=limit)
        wanted = invocation_id.encode() if invocation_id is not None else None
        for packed in self._packed(function_id):
            if wanted is None or wanted in packed:
                try:
                    line = orjson.loads(packed)
                except orjson.JSONDecodeError:  # the last line of a file whose writer was killed
                    continue
                if invocation_id is None or line["invocation_id"] == invocation_id:
                    kept.append(line)
        return list(kept)

    def _packed(self, function_id: str) -> Iterable[bytes]:
        folder = self._of(function_id)
        for name in (*(f"{number}.ndjson" for number in range(FILES - 1, 0, -1)), "current.ndjson"):
            path = folder / name
            if path.exists():
                with path.open("rb") as file:
                    yield from file

    async def output_of(self, function_id: str, invocation_id: str) -> tuple[str, str]:
        """All that one invocation printed, as far as the files still hold it: (stdout, stderr)."""
        texts: dict[str, list[str]] = {"stdout": [], "stderr": []}
        for line in await self.read(function_id, invocation_id, 1 << 20):
            texts[line["stream"]].append(line["text"] if line.get("part") else line["text"] + "\n")
        return "".join(texts["stdout"]), "".join(texts["stderr"])

    async def lines(
        self, function_id: str, *, follow: bool, invocation_id: str | None, limit: int
    ) -> AsyncIterator[dict[str, Any]]:
        """Oldest first; with `follow` until closed or the function is deleted. A slow reader loses the oldest."""
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(FOLLOWER_LIMIT)
        async with self._lock:
            found = await asyncio.to_thread(self._read, function_id, invocation_id, limit)
            if follow:
                self._followers.setdefault(function_id, set()).add(queue)
        try:
            for line in found:
                yield _shown(line)
            while follow:
                next_line = await queue.get()
                if next_line is None:
                    return
                if invocation_id is None or next_line["invocation_id"] == invocation_id:
                    yield _shown(next_line)
        finally:
            followers = self._followers.get(function_id, set())
            followers.discard(queue)
            if not followers:
                self._followers.pop(function_id, None)

    async def delete(self, function_id: str) -> None:
        """Remove a function's files; its followers come to their end."""
        async with self._lock:
            await asyncio.to_thread(shutil.rmtree, self._of(function_id), True)
            self._end_followers(function_id)

    def close(self) -> None:
        """All followers come to their end."""
        for function_id in list(self._followers):
            self._end_followers(function_id)

    def _end_followers(self, function_id: str) -> None:
        for queue in self._followers.get(function_id, ()):
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)

    def _of(self, function_id: str) -> Path:
        if _FUNCTION_ID.fullmatch(function_id) is None:
            raise ValueError(f"not a function id: {function_id!r}")
        return self._folder / function_id


def _shown(line: dict[str, Any]) -> dict[str, Any]:
    line.pop("part", None)
    return line
