"""Tars that are packed and unpacked as they flow.

Not here: where they come from and go to (`sides`).
"""

from __future__ import annotations

import os
import queue
import tarfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

import click

from quilt_fn.cli import escapes

PIECE = 1 << 18


def write(target: Path, pieces: Iterable[bytes]) -> None:
    """In one step: a transfer that breaks off leaves what was there before."""
    target.parent.mkdir(parents=True, exist_ok=True)
    waiting = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(waiting, "wb") as file:
            for piece in pieces:
                file.write(piece)
        waiting.replace(target)
    finally:
        waiting.unlink(missing_ok=True)


def unpack(pieces: Iterable[bytes], target: Path) -> None:
    """Unpack a tar from a place that may be hostile: nothing outside of `target`, no devices, links inside only."""
    with tarfile.open(fileobj=cast(IO[bytes], _Pieces(iter(pieces))), mode="r|") as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            inside = not name.is_absolute() and ".." not in name.parts
            way = target.resolve()
            for part in name.parts[:-1] if inside else ():
                way = way / part
                inside = inside and not way.is_symlink()
            if not inside:
                click.echo(escapes.line(f"left out: {member.name} points outside"), err=True)
            elif member.issym():
                link = target / name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(member.linkname)
            elif member.isdir():
                (target / name).mkdir(parents=True, exist_ok=True)
            elif member.isreg():
                content = tar.extractfile(member)
                assert content is not None
                write(target / name, iter(lambda file=content: file.read(PIECE), b""))  # type: ignore[misc]
                (target / name).chmod(member.mode & 0o777)


def first_file(pieces: Iterator[bytes]) -> tuple[str, Iterator[bytes]] | None:
    """Name and content of the first entry, where that is a file. What follows it is left in `pieces`."""
    tar = tarfile.open(fileobj=cast(IO[bytes], _Pieces(pieces)), mode="r|")  # noqa: SIM115  # nothing to close but memory
    member = tar.next()
    if member is None or not member.isreg():
        return None
    content = tar.extractfile(member)
    assert content is not None
    return member.name, iter(lambda: content.read(PIECE), b"")


class _Pieces:
    """Pieces as a file to read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int) -> bytes:
        parts, missing = [], size
        while missing:
            self._rest = self._rest or next(self._pieces, b"")
            if not self._rest:
                break
            part, self._rest = self._rest[:missing], self._rest[missing:]
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


class Packed:
    """A folder's contents, or the file `source` under the name `as_name`, as a tar: packed by a thread as it is read,
    a few pieces ahead.
    """

    def __init__(self, source: Path, as_name: str = "") -> None:
        self._source = source
        self._as_name = as_name
        self._ahead: queue.Queue[bytes | BaseException | None] = queue.Queue(8)
        self._over = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        thread = threading.Thread(target=self._pack, daemon=True)
        thread.start()
        try:
            while (piece := self._ahead.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self._over.set()

    def _pack(self) -> None:
        try:
            with tarfile.open(fileobj=cast(IO[bytes], self), mode="w|", bufsize=PIECE, dereference=False) as tar:
                if self._source.is_dir():
                    for path in sorted(self._source.iterdir()):
                        tar.add(path, path.name, filter=_plain)
                else:
                    tar.add(self._source.resolve(), self._as_name or self._source.name, filter=_plain)
            self._put(None)
        except BaseException as error:
            self._put(error)

    def write(self, data: bytes) -> int:
        self._put(bytes(data))
        return len(data)

    def _put(self, piece: bytes | BaseException | None) -> None:
        while not self._over.is_set():
            try:
                self._ahead.put(piece, timeout=0.5)
                return
            except queue.Full:
                continue


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Folders, files and links; owners stay here."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info if info.isdir() or info.isreg() or info.issym() or info.islnk() else None
