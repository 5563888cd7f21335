"""Archives in and out of a container that runs: by a process in its namespaces with its root's rights.

Paths are resolved where the container sees them, volumes included. Not here: what an archive may hold (`archives`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from runtime.spawner import archives, jail
from runtime.spawner import volume_files as files
from runtime.spawner.context import Message
from runtime.spawner.names import integer
from runtime.spawner.protocol import Refused
from runtime.spawner.volumes import pipes

Work = Callable[[files.Top, str], dict[str, Any]]
Namespaces = Mapping[str, int]
"""The container's, open, by the names of `jail.ENTERED`."""
_HOST_USR = "/usr is this machine's own on image `host`: write elsewhere, or make the container with image `debian`"


def unpack(namespaces: Namespaces, message: Message, fds: list[int]) -> dict[str, Any]:
    """{path, strip}, [pipe, whether it is whole] → {entries, bytes}."""
    strip = integer(message, "strip", 0, files.DEPTH_LIMIT)
    pipe, whole = pipes(fds, 2)

    def work(top: files.Top, path: str) -> dict[str, Any]:
        return archives.unpack(top, pipe, whole, path, strip)

    return _inside(namespaces, message, fds, work, outlives=True)


def pack(namespaces: Namespaces, message: Message, fds: list[int]) -> dict[str, Any]:
    """{path, zipped}, [pipe] → {entries}."""
    (pipe,) = pipes(fds, 1)
    zipped = message.get("zipped") is True
    return _inside(namespaces, message, fds, lambda top, path: archives.pack(top, pipe, path, zipped))


def _inside(
    namespaces: Namespaces, message: Message, fds: list[int], work: Work, *, outlives: bool = False
) -> dict[str, Any]:
    path, given = _path(message)

    def inside() -> dict[str, Any]:
        jail.as_root_of(namespaces)
        if outlives:
            jail.outlive_parent()
        top = files.Top(os.open("/", files.FOLDER), -1, 0, mounts=True)
        try:
            try:
                return work(top, path)
            except OSError as error:
                raise files.told(error, repr(given), path, top.noun) from None
        except Refused as error:
            if _is_host_usr(error.details.get("read_only")):
                raise Refused(f"{error}. {_HOST_USR}") from None
            raise

    return dict(jail.call(inside, [*fds, *namespaces.values()]))


def _path(message: Message) -> tuple[str, str]:
    """The request's path as one below the container's root, and as it was given. Raises Refused."""
    given = message.get("path", "/")
    if isinstance(given, str) and ".." in PurePosixPath(given).parts:
        raise Refused(f"path {given[:200]!r} has `..` in it: say where that is from the container's root")
    return files.relative(given.lstrip("/") if isinstance(given, str) else given), given


def _is_host_usr(path: str | None) -> bool:
    """Whether `path` lies in a /usr that is read-only, as this process sees it."""
    if path is None or not os.statvfs("/usr").f_flag & os.ST_RDONLY:
        return False
    return f"{os.path.realpath(f'/{path}')}/".startswith("/usr/")
