"""`quilt cp SRC DST`: a file or a folder between this machine and a volume or a container.

A file of a volume goes as it is; folders, and everything of a container, go as a tar that is packed and unpacked as it
flows. Not here: what the other side accepts.
"""

from __future__ import annotations

import os
import queue
import stat
import sys
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, cast

import click

from quilt_fn.cli import output

if TYPE_CHECKING:
    from quilt_fn.client import Client

PIECE = 1 << 18


@dataclass(frozen=True, slots=True)
class Place:
    """`name` None: a path of this machine. Else a path in the volume or container of that name."""

    name: str | None
    path: str


def place(text: str) -> Place:
    """`NAME:PATH`, or a local path; one with a slash before its first colon is local."""
    name, colon, path = text.partition(":")
    return Place(name, path.strip("/")) if colon and name and "/" not in name and name != "." else Place(None, text)


@click.command(short_help="Copy files and folders to and from volumes.")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@output.json_option
def cp(source: str, target: str, as_json: bool) -> None:
    """Copy files and folders to and from volumes.

    \b
    quilt cp ./data models:data
    quilt cp models:data/a.bin .

    VOLUME:PATH names a place in a volume, anything else a local path. A folder's contents go into the folder DST; a
    file becomes DST, or goes into it where DST is a folder here or ends with a slash.
    """
    there, here = place(source), place(target)
    if (there.name is None) == (here.name is None):
        raise click.UsageError("one of SRC and DST must be VOLUME:PATH, and the other a local path")
    client = output.client()
    with Progress(quiet=as_json) as progress:
        if here.name is not None:
            _up(client, Path(source), here, target.endswith(("/", ":")), progress)
        else:
            _down(client, there, Path(target), target.endswith("/"), progress)
    if as_json:
        output.print_json({"source": source, "target": target, "bytes": progress.bytes})


def _up(client: Client, source: Path, target: Place, into: bool, progress: Progress) -> None:
    volume = client.volumes.get(str(target.name))
    if not source.exists():
        raise click.BadParameter(f"{source} does not exist", param_hint="SRC")
    if source.is_dir():
        volume.unpack(progress.counted(Packed(source)), target.path)
        return
    path = f"{target.path}/{source.name}".lstrip("/") if into else target.path
    mode = f"{stat.S_IMODE(source.stat().st_mode) & 0o777:o}"
    with open(source, "rb") as file:
        volume.files.write(path, progress.counted(_read(file)), mode=mode)


def _down(client: Client, source: Place, target: Path, into: bool, progress: Progress) -> None:
    from quilt_fn.errors import InvalidValue

    volume = client.volumes.get(str(source.name))
    if source.path:
        try:
            pieces = iter(volume.files.stream(source.path))
            first = next(pieces, b"")
        except InvalidValue:  # a folder
            pass
        else:
            if target.is_dir() or into:
                target = target / PurePosixPath(source.path).name
            _write(target, progress.seen(first), progress.passing(pieces))
            return
    target.mkdir(parents=True, exist_ok=True)
    unpack(progress.passing(volume.pack(source.path)), target)


def _write(target: Path, first: bytes, pieces: Iterable[bytes]) -> None:
    """In one step: a transfer that breaks off leaves what was there before."""
    target.parent.mkdir(parents=True, exist_ok=True)
    waiting = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(waiting, "wb") as file:
            file.write(first)
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
                click.echo(f"left out: {member.name} points outside", err=True)
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
                _write(target / name, b"", iter(lambda file=content: file.read(PIECE), b""))  # type: ignore[misc]
                (target / name).chmod(member.mode & 0o777)


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


def _read(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(PIECE):
        yield piece


class Packed:
    """A folder's contents as a tar, packed by a thread as it is read, a few pieces ahead."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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
                for path in sorted(self._folder.iterdir()):
                    tar.add(path, path.name, filter=_plain)
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


class Progress:
    """Bytes and speed on stderr, where that is a terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self.bytes = 0
        self._shown = not quiet and sys.stderr.isatty()
        self._begun = self._last = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_exc: Any) -> None:
        if self._shown:
            self._draw("\n")

    def seen(self, piece: bytes) -> bytes:
        self.bytes += len(piece)
        now = time.monotonic()
        if self._shown and now - self._last > 0.2:
            self._last = now
            self._draw("")
        return piece

    def passing(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            yield self.seen(piece)

    async def counted(self, pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
        import asyncio

        each = iter(pieces)
        step: Callable[[], bytes] = lambda: next(each, b"")  # noqa: E731
        while piece := await asyncio.to_thread(step):
            yield self.seen(piece)

    def _draw(self, end: str) -> None:
        took = max(1e-3, time.monotonic() - self._begun)
        click.echo(f"\r{output.size(self.bytes)}  {self.bytes / 1e6 / took:,.1f} MB/s   {end}", err=True, nl=False)
