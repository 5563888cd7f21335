"""The far side of `quilt cp`: a volume, whose single files go as they are, or a container, where all goes as tars.

Not here: the near side (`cp`), nor tars (`tars`).
"""

from __future__ import annotations

import itertools
import stat
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Protocol

import click

from quilt_fn.cli import tars

if TYPE_CHECKING:
    from quilt_fn.client import Client
    from quilt_fn.containers import Container
    from quilt_fn.volumes import Volume

Counted = Callable[[Iterable[bytes]], AsyncIterator[bytes]]


class Side(Protocol):
    """Paths are from the top, without a slash before them."""

    def put(self, source: Path, path: str, counted: Counted) -> None:
        """The local file `source` becomes the file `path`."""

    def unpack(self, archive: AsyncIterator[bytes], path: str) -> None:
        """Into the folder `path`."""

    def file(self, path: str) -> AbstractContextManager[Iterator[bytes] | None]:
        """What is in a file, to be read as far as it is wanted; None where `path` is a folder. Raises FileNotThere."""
        ...

    def pack(self, path: str) -> Iterator[bytes]:
        """A folder's contents."""


def find(client: Client, name: str) -> Side:
    """Raises Conflict where a volume and a container have that name, VolumeNotFound where none has."""
    from quilt_fn.errors import Conflict, ContainerNotFound, VolumeNotFound

    if name.startswith("ctr_"):
        return InContainer(client.containers.get(name))
    try:
        container = client.containers.get(name)
    except ContainerNotFound:
        try:
            return InVolume(client.volumes.get(name))
        except VolumeNotFound:
            raise VolumeNotFound(f"no volume and no container is named {name!r}") from None
    try:
        client.volumes.get(name)
    except VolumeNotFound:
        return InContainer(container)
    raise Conflict(
        f"a volume and a container are named {name!r}",
        hint=f"For the container say {container.id}:PATH; to reach the volume rename one of the two.",
    )


def is_folder(side: Side, path: str) -> bool:
    """Whether a file that is copied to `path` goes into it, as with cp."""
    from quilt_fn.errors import FileNotThere

    if not path:
        return True
    try:
        with side.file(path) as content:
            return content is None
    except FileNotThere:
        return False


class InVolume:
    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    def put(self, source: Path, path: str, counted: Counted) -> None:
        mode = f"{stat.S_IMODE(source.stat().st_mode) & 0o777:o}"
        with open(source, "rb") as file:
            self._volume.files.write(path, counted(_read(file)), mode=mode)

    def unpack(self, archive: AsyncIterator[bytes], path: str) -> None:
        self._volume.unpack(archive, path)

    @contextmanager
    def file(self, path: str) -> Iterator[Iterator[bytes] | None]:
        from quilt_fn.errors import InvalidValue

        with closing(self._volume.files.stream(path)) as pieces:
            try:
                first = next(pieces, b"")
            except InvalidValue:  # a folder
                yield None
            else:
                yield itertools.chain((first,), pieces)

    def pack(self, path: str) -> Iterator[bytes]:
        return iter(self._volume.pack(path))


class InContainer:
    def __init__(self, container: Container) -> None:
        self._files = container.files

    def put(self, source: Path, path: str, counted: Counted) -> None:
        folder, _, name = path.rpartition("/")
        if not name:
            raise click.UsageError("name the file, or end DST with a slash: the container's root can't become a file")
        self._files.unpack(counted(tars.Packed(source, name)), f"/{folder}")

    def unpack(self, archive: AsyncIterator[bytes], path: str) -> None:
        self._files.unpack(archive, f"/{path}")

    @contextmanager
    def file(self, path: str) -> Iterator[Iterator[bytes] | None]:
        name = PurePosixPath(path).name
        with closing(self._files.pack(f"/{path}")) as pieces:
            found = tars.first_file(pieces)
            single = found is not None and found[0] == name and not self._holds(f"{path}/{name}")
            yield found[1] if found is not None and single else None

    def pack(self, path: str) -> Iterator[bytes]:
        return iter(self._files.pack(f"/{path}"))

    def _holds(self, path: str) -> bool:
        """Tells the folder `a` with a file `a` in it from a file `a`: their tars begin alike."""
        from quilt_fn.errors import FileNotThere, InvalidValue

        try:
            with closing(self._files.pack(f"/{path}")) as pieces:
                next(pieces, b"")
        except (FileNotThere, InvalidValue):
            return False
        return True


def _read(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(tars.PIECE):
        yield piece
