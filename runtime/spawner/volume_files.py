"""A volume's files by paths from outside, each resolved beneath the volume: read, replaced, listed, removed.

Runs in a jail that has the tenant's rights only (`jail.as_tenant`), while containers may change everything at any time.
Not here: whose volume it is and where it lies (`volumes`).
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from runtime.spawner import kernel
from runtime.spawner.protocol import Refused

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
PATH_LIMIT, NAME_LIMIT, DEPTH_LIMIT = 4096, 255, 200
MEASURED_ENTRIES, MEASURED_S = 1_000_000, 10.0
LISTED_BYTES = 40_000
"""Of one answer, which has to fit a message of 64 KiB."""
_WAITING = re.compile(r"\.quilt-[0-9a-f]{20}")
_LEADS_OUT = (errno.EXDEV, errno.ELOOP, errno.EAGAIN)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM)


@dataclass(frozen=True, slots=True)
class Top:
    """The open folders of one volume: what its users see, and where files wait until they are whole.

    Of a container `incoming` is -1: what waits does so at the top of the mount that it is to go into (`staging`), and
    `mounts` are gone through.
    `reserve`: bytes that must stay free on the disk below, which a volume without a limit shares with the platform.
    `folder_mode`: of folders that are made because something is to lie in them.
    """

    data: int
    incoming: int
    reserve: int
    mounts: bool = False
    folder_mode: int = 0o755

    def open(self, path: str, flags: int) -> int:
        return kernel.open_beneath(self.data, path, flags, mounts=self.mounts)

    @property
    def noun(self) -> str:
        return "container" if self.mounts else "volume"

    def shown(self, path: str) -> str:
        """A path below the top as its users know it: those in a container begin with a slash."""
        return repr(f"/{'' if path == '.' else path}" if self.mounts else path)


@dataclass(frozen=True, slots=True)
class Found:
    """An entry that a walk has come to: `name` in the open folder `parent`, as it stood then. `named`: it is what the
    walk was to begin at.
    """

    path: str
    parent: int
    name: str
    status: os.stat_result
    named: bool = False


def relative(path: object) -> str:
    """`path` as a plain path below a volume's top, "." for the top itself. Raises Refused."""
    if not isinstance(path, str) or len(path) > PATH_LIMIT or "\0" in path:
        raise Refused(f"a path is a text of at most {PATH_LIMIT} characters without NUL")
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts:
        raise Refused(f"path {path[:200]!r} does not lie below the volume: name it from the volume's top, without `..`")
    try:
        if len(parts) > DEPTH_LIMIT or any(len(os.fsencode(part)) > NAME_LIMIT for part in parts):
            raise Refused(f"a path has at most {DEPTH_LIMIT} parts of at most {NAME_LIMIT} bytes")
    except UnicodeEncodeError:
        raise Refused("a path must be text that UTF-8 can hold") from None
    return str(PurePosixPath(*parts))


def told(error: OSError, what: str, where: str = ".", noun: str = "volume") -> Refused:
    """What an OSError means to the user who named `what`, which goes to `where` below the top of a `noun`.

    Of what is the platform's own see `volumes.ours`.
    """
    if error.errno == errno.ENOENT:
        return Refused(f"{what} is not there", "absent")
    if error.errno == errno.ENOTDIR:
        return Refused(f"{what}: a file lies where a folder is needed")
    if error.errno == errno.EROFS:
        return Refused(f"{what} can't be changed: that place is read-only", details={"read_only": where})
    if error.errno in _NOT_ALLOWED:
        return Refused(f"{what} can't be read or changed: {os.strerror(error.errno)}")
    if error.errno in _NO_ROOM:
        return Refused(f"there is no room left for this in the {noun}, or on the disk below it", "full")
    if error.errno in _LEADS_OUT:
        return Refused(f"{what} leads out of the {noun} by a link")
    if error.errno in (errno.EISDIR, errno.EEXIST):
        return Refused(f"{what} is a folder")
    if error.errno == errno.ENOTEMPTY:
        return Refused(f"{what} is a folder with something in it: remove it with recursive=true")
    return Refused(f"{what}: {error.strerror or error}", "failed")


def check_room(top: Top) -> None:
    """Raise ENOSPC where less than the reserve is free."""
    if top.reserve:
        free = os.fstatvfs(top.incoming)
        if free.f_bavail * free.f_frsize < top.reserve:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def open_file(top: Top, path: str) -> int:
    """A descriptor for reading. Raises Refused where it is no plain file."""
    fd = top.open(relative(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Refused(f"{path!r} is no plain file")
    return fd


def _folder(top: Top, path: str, make: bool) -> int:
    """The open folder `path`; with `make` what is missing on the way is made."""
    if not make:
        return top.open(path, os.O_RDONLY | os.O_DIRECTORY)
    parts = PurePosixPath(path).parts
    fd = os.dup(top.data)
    for number, part in enumerate(parts, start=1):
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, top.folder_mode, dir_fd=fd)
        os.close(fd)
        # From the top each time: a link on the way may lead anywhere beneath it.
        fd = top.open(str(PurePosixPath(*parts[:number])), os.O_RDONLY | os.O_DIRECTORY)
    return fd


@contextlib.contextmanager
def parent(top: Top, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """The open folder that holds `path`, and the name in it. Raises Refused for the volume's top."""
    plain = PurePosixPath(relative(path))
    if not plain.name:
        raise Refused(f"this is the {top.noun} itself: name something in it")
    fd = _folder(top, str(plain.parent), make)
    try:
        yield fd, plain.name
    finally:
        os.close(fd)


# --- replacing in one step --------------------------------------------------------------------------------------------


def create(top: Top, name: str) -> int:
    """A new file `name` in the waiting place, open for writing."""
    check_room(top)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o600, dir_fd=top.incoming)


def discard(top: Top, name: str) -> None:
    """Idempotent."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=top.incoming)


def waiting_name() -> str:
    """A name of the platform's own: nobody is shown it, and a sweep removes it."""
    return ".quilt-" + os.urandom(10).hex()


def waits(name: str) -> bool:
    return _WAITING.fullmatch(name) is not None


@contextlib.contextmanager
def staged(top: Top) -> Iterator[tuple[str, int]]:
    """A new file in the waiting place, gone at the end unless it was put in its place."""
    name = waiting_name()
    fd = create(top, name)
    try:
        yield name, fd
    finally:
        os.close(fd)
        discard(top, name)


def commit(top: Top, name: str, path: str, mode: int | None, *, durable: bool = True) -> None:
    """Put the waiting file in its place, in one step; with mode None it keeps mode and owner of the one before it.

    `durable`: also after a power cut. Archives do without it: a sync for each entry takes milliseconds.
    """
    with parent(top, path, make=True) as (fd, final):
        owner = (0, 0)
        try:
            before = os.stat(final, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            mode = 0o644 if mode is None else mode
        else:
            if stat.S_ISDIR(before.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if stat.S_ISREG(before.st_mode):
                owner = (before.st_uid, before.st_gid)
            if mode is None:
                mode = stat.S_IMODE(before.st_mode) & 0o777 if stat.S_ISREG(before.st_mode) else 0o644
        os.chown(name, *owner, dir_fd=top.incoming, follow_symlinks=False)
        os.chmod(name, mode, dir_fd=top.incoming)
        os.rename(name, final, src_dir_fd=top.incoming, dst_dir_fd=fd)
        if durable:
            os.fsync(fd)


def make_folder(top: Top, path: str, mode: int) -> None:
    """`path` as a folder with `mode`, and those above it. One that is there gets the mode."""
    plain = relative(path)
    fd = _folder(top, plain, make=True)
    try:
        if plain != ".":
            os.fchmod(fd, mode)
    finally:
        os.close(fd)


def place_link(top: Top, path: str, target: str) -> None:
    """A symbolic link at `path`, instead of a file or link there. Where it points to is never looked at."""
    if not target or "\0" in target:
        raise Refused(f"{path!r} is a link to nothing")
    _place(top, path, lambda name: os.symlink(target, name, dir_fd=top.incoming))


def place_hard_link(top: Top, path: str, origin: Top, source: str) -> None:
    """Another name for the plain file at `source` below `origin`, instead of a file or link at `path`."""
    with parent(origin, source) as (fd, name):
        if not stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            raise Refused(f"{path!r} is a hard link to {source!r}, which is no plain file")
        _place(
            top, path,
            lambda waiting: os.link(name, waiting, src_dir_fd=fd, dst_dir_fd=top.incoming, follow_symlinks=False),
        )  # fmt: skip


def _place(top: Top, path: str, make: Any) -> None:
    waiting = waiting_name()
    make(waiting)
    try:
        with parent(top, path, make=True) as (fd, name):
            os.rename(waiting, name, src_dir_fd=top.incoming, dst_dir_fd=fd)
    finally:
        discard(top, waiting)


# --- removing ---------------------------------------------------------------------------------------------------------


def remove(top: Top, path: str, recursive: bool) -> None:
    """Remove a file, a link, an empty folder; with `recursive` any folder, which is out of sight in one step.

    However deep: each folder is moved to the waiting place before it is emptied, so there is no recursion.
    """
    with parent(top, path) as (fd, name):
        if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=fd)
        elif not recursive:
            os.rmdir(name, dir_fd=fd)
        else:
            first = waiting_name()
            os.rename(name, first, src_dir_fd=fd, dst_dir_fd=top.incoming)
            clear(top.incoming, first)
        os.fsync(fd)


def clear(waiting: int, first: str) -> None:
    """Remove the folder `first` in the open folder `waiting`, into which those in it are moved on the way. Something
    else may be removing it, or adding to it.
    """
    todo = [first]
    while todo:
        folder = todo[-1]
        with contextlib.suppress(FileNotFoundError):
            todo += _emptied(waiting, folder)
        if todo[-1] != folder:
            continue
        todo.pop()
        try:
            os.rmdir(folder, dir_fd=waiting)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            todo.append(folder)


def _emptied(waiting: int, folder: str) -> list[str]:
    """Remove its files, and move its folders to `waiting`: their names there. Files first, as a full disk has no room
    for the names.
    """
    fd = os.open(folder, FOLDER, dir_fd=waiting)
    try:
        folders = []
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(entry.name, dir_fd=fd)
        moved = []
        for name in folders:
            with contextlib.suppress(FileNotFoundError):
                os.rename(name, new := waiting_name(), src_dir_fd=fd, dst_dir_fd=waiting)
                moved.append(new)
        return moved
    finally:
        os.close(fd)


# --- looking ----------------------------------------------------------------------------------------------------------


def listing(top: Top, path: str, after: str, limit: int) -> dict[str, Any]:
    """{entries, more}: what is in a folder behind the name `after`, ordered by name, bounded in number and bytes."""
    fd = _folder(top, relative(path), make=False)
    try:
        with os.scandir(fd) as entries:
            shown = (entry.name for entry in entries if entry.name > after and not waits(entry.name))
            names = heapq.nsmallest(limit + 1, shown)
        found: list[dict[str, Any]] = []
        size = 0
        for name in names[:limit]:
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                entry = _described(fd, name)
                size += len(repr(entry)) + 5 * (len(name) + len(entry.get("target", "")))
                if size > LISTED_BYTES and found:
                    return {"entries": found, "more": True}
                found.append(entry)
        return {"entries": found, "more": len(names) > limit}
    finally:
        os.close(fd)


def _described(fd: int, name: str) -> dict[str, Any]:
    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    kinds = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "folder"), (stat.S_ISLNK, "link"))
    kind = next((word for test, word in kinds if test(status.st_mode)), "other")
    entry = {"name": name, "kind": kind, "size": status.st_size, "mode": f"{stat.S_IMODE(status.st_mode):o}",
             "modified_at": status.st_mtime}  # fmt: skip
    if kind == "link":
        entry["target"] = os.readlink(name, dir_fd=fd)[:1024]
    return entry


def walk(top: Top, path: str) -> Iterator[Found]:
    """Everything below a folder, each folder before its contents, or the one file that `path` is. Links are not
    followed, other filesystems not entered. Raises Refused beyond 200 levels.
    """
    plain = relative(path)
    if plain != ".":
        with parent(top, plain) as (fd, name):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                yield Found(name, fd, name, status, named=True)
                return
    fd = _folder(top, plain, make=False)
    try:
        yield from _below(top.noun, fd, "", os.fstat(fd).st_dev, 0)
    finally:
        os.close(fd)


def _below(noun: str, fd: int, prefix: str, device: int, depth: int) -> Iterator[Found]:
    if depth > DEPTH_LIMIT:
        raise Refused(f"the {noun}'s folders are over {DEPTH_LIMIT} deep at {prefix[:200]!r}")
    for name in sorted(name for name in os.listdir(fd) if not waits(name)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # gone or swapped since it was listed
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            yield Found(prefix + name, fd, name, status)
            if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
                inner = os.open(name, FOLDER, dir_fd=fd)
                try:
                    yield from _below(noun, inner, f"{prefix}{name}/", device, depth + 1)
                finally:
                    os.close(inner)


def measure(top: Top) -> dict[str, Any]:
    """{bytes, files, complete}: what is in the volume, or how far a million entries or ten seconds came."""
    until = time.monotonic() + MEASURED_S
    size = count = entries = 0
    seen: set[int] = set()
    try:
        for found in walk(top, "."):
            entries += 1
            if entries > MEASURED_ENTRIES or time.monotonic() > until:
                return {"bytes": size, "files": count, "complete": False}
            if stat.S_ISDIR(found.status.st_mode):
                continue
            count += 1
            if found.status.st_nlink == 1 or found.status.st_ino not in seen:
                seen.add(found.status.st_ino) if found.status.st_nlink > 1 else None
                size += found.status.st_blocks * 512
    except Refused:  # too deep
        return {"bytes": size, "files": count, "complete": False}
    return {"bytes": size, "files": count, "complete": True}
