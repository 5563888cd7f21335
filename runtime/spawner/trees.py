"""Copying and removing folders whose contents a container made, and may be changing: links are never followed.

Not here: which folders, and when (`operations`, `snapshots`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

from runtime.spawner import programs
from runtime.spawner.protocol import Refused

DEPTH_LIMIT = 200
ENTRIES_LIMIT = 500_000
BYTES_LIMIT = 16 << 30


def remove(path: Path) -> None:
    """Remove `path` and all below it. Idempotent; raises ProgramFailed where even rm can't.

    rmtree takes one call and one descriptor for each level, so a tree that is thousands deep ends it; rm does not mind.
    """
    try:
        shutil.rmtree(path)
    except (RecursionError, OSError):
        programs.checked("rm", "-rf", "--one-file-system", "--", str(path))


def copy(source: Path, target: Path) -> None:
    """Copy the folder `source` to `target`, which is made, with owners, modes, times and extended attributes.

    By descriptors from folder to folder, each opened without following a link: a process that swaps a folder for a link
    while this runs as root leads it nowhere. Raises Refused (failed) beyond the limits, or at a device.
    """
    target.mkdir()
    below = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    above = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _Copy().folder(below, above, 0)
    finally:
        os.close(below)
        os.close(above)


class _Copy:
    def __init__(self) -> None:
        self.entries = 0
        self.bytes = 0

    def folder(self, source: int, target: int, depth: int) -> None:
        if depth > DEPTH_LIMIT:
            raise Refused(f"the function's files lie over {DEPTH_LIMIT} folders deep", "failed")
        for name in os.listdir(source):
            self.entries += 1
            if self.entries > ENTRIES_LIMIT:
                raise Refused(f"the function wrote over {ENTRIES_LIMIT} files at import", "failed")
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                self._entry(name, source, target, depth)
        _same_attributes(source, target)

    def _entry(self, name: str, source: int, target: int, depth: int) -> None:
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
        elif stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode):
            self._opened(name, source, target, depth)
        elif stat.S_ISCHR(found.st_mode) and found.st_rdev != 0:
            raise Refused(f"the function's files hold a device, {name!r}", "failed")
        else:  # a pipe, a socket, or the overlay's mark of a removed file (device 0, 0)
            os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
            os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)

    def _opened(self, name: str, source: int, target: int, depth: int) -> None:
        """A file or a folder, whichever it is once it is open."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        below = os.open(name, flags, dir_fd=source)
        try:
            mode = os.fstat(below).st_mode
            if stat.S_ISDIR(mode):
                os.mkdir(name, dir_fd=target)
                above = os.open(name, flags | os.O_DIRECTORY, dir_fd=target)
            elif stat.S_ISREG(mode):
                above = os.open(
                    name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target
                )
            else:
                raise Refused(f"the function's files changed while they were copied, at {name!r}", "failed")
            try:
                if stat.S_ISDIR(mode):
                    self.folder(below, above, depth + 1)
                else:
                    self._contents(below, above)
                    _same_attributes(below, above)
            finally:
                os.close(above)
        finally:
            os.close(below)

    def _contents(self, source: int, target: int) -> None:
        while True:
            size = os.sendfile(target, source, None, 1 << 24)
            if size == 0:
                return
            self.bytes += size
            if self.bytes > BYTES_LIMIT:
                raise Refused(f"the function wrote over {BYTES_LIMIT >> 30} GiB at import", "failed")


def _same_attributes(source: int, target: int) -> None:
    found = os.fstat(source)
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    for name in os.listxattr(source):
        os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
