"""`quilt cp SRC DST`: a file or a folder between this machine and a volume or a container.

Not here: how a volume and a container take and give files (`sides`), tars (`tars`), what the other side accepts.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from quilt_fn.cli import output, sides, tars

if TYPE_CHECKING:
    from quilt_fn.client import Client


@dataclass(frozen=True, slots=True)
class Place:
    """`name` None: a path of this machine. Else a path in the volume or container of that name."""

    name: str | None
    path: str


def place(text: str) -> Place:
    """`NAME:PATH`, or a local path; one with a slash before its first colon is local."""
    name, colon, path = text.partition(":")
    return Place(name, path.strip("/")) if colon and name and "/" not in name and name != "." else Place(None, text)


@click.command(short_help="Copy files and folders to and from volumes and containers.")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@output.json_option
def cp(source: str, target: str, as_json: bool) -> None:
    """Copy files and folders to and from volumes and containers.

    \b
    quilt cp ./data models:data
    quilt cp models:data/a.bin .
    quilt cp ./site box:/srv/site
    quilt cp box:/etc/hostname .

    NAME:PATH names a place in a volume, or in a running container by its name or id; anything else is a local path. A
    folder's contents go into the folder DST; a file becomes DST, or goes into it where DST is a folder or ends with a
    slash.

    Folders, files and links are copied. Pipes, sockets and devices in a folder are left out, and of a volume or a
    container also what is mounted in the folder.
    """
    there, here = place(source), place(target)
    if (there.name is None) == (here.name is None):
        raise click.UsageError("one of SRC and DST must be NAME:PATH, and the other a local path")
    client = output.client()
    with Progress(quiet=as_json) as progress:
        if here.name is not None:
            _up(client, Path(source), here, target.endswith(("/", ":")), progress)
        else:
            _down(client, there, Path(target), target.endswith("/"), progress)
    if as_json:
        output.print_json({"source": source, "target": target, "bytes": progress.bytes})


def _up(client: Client, source: Path, target: Place, into: bool, progress: Progress) -> None:
    if not source.exists():
        raise click.BadParameter(f"{source} does not exist", param_hint="SRC")
    there = sides.find(client, str(target.name))
    if source.is_dir():
        there.unpack(progress.counted(tars.Packed(source)), target.path)
    else:
        into = into or sides.is_folder(there, target.path)
        path = f"{target.path}/{source.name}".lstrip("/") if into else target.path
        there.put(source, path, progress.counted)


def _down(client: Client, source: Place, target: Path, into: bool, progress: Progress) -> None:
    there = sides.find(client, str(source.name))
    with there.file(source.path) if source.path else nullcontext() as content:
        if content is not None:
            if target.is_dir() or into:
                target = target / PurePosixPath(source.path).name
            tars.write(target, progress.passing(content))
            return
    pieces = there.pack(source.path)
    first = next(pieces, b"")  # what can't be packed makes no folder
    target.mkdir(parents=True, exist_ok=True)
    tars.unpack(progress.passing(itertools.chain((first,), pieces)), target)


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
