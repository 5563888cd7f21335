"""Tar and tar.gz as streams: read within limits however hostile, and written from a folder that somebody changes.

Runs in a jail (`jail`); what makes an entry acceptable for bundles is in `bundles`, for volumes here. Debian 12's
Python has no tarfile filter, and a filter is no sandbox.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import tarfile
import zlib
from pathlib import PurePosixPath
from typing import IO, cast

from runtime.spawner import volume_files as files
from runtime.spawner.protocol import Refused

HEADER_LIMIT = 1 << 20
ENTRIES_LIMIT = 1_000_000
PIECE = 1 << 18
_UNREADABLE = (
    tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, LookupError, ArithmeticError, RecursionError
)  # fmt: skip


class Bounded:
    """A stream for tarfile, which reads a header of any size into memory: no header may be over the limit.

    Reads forward only, so it may be a pipe.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left: int | None = HEADER_LIMIT
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        if size < 0 or (self._left is not None and size > self._left):
            raise tarfile.ReadError("a header of the archive is too large")
        if self._left is not None:
            self._left -= size
        data = self._file.read(size)
        self._position += len(data)
        return data

    def archive(self) -> tarfile.TarFile:
        return tarfile.open(fileobj=cast(IO[bytes], self), mode="r:")

    def content(self) -> None:
        """What is read from now on is a file's content, which comes in pieces."""
        self._left = None

    def header(self) -> None:
        self._left = HEADER_LIMIT

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence != 0 or offset < self._position:
            raise tarfile.ReadError("the archive points back into itself")
        while self._position < offset:
            data = self._file.read(min(PIECE, offset - self._position))
            if not data:
                raise tarfile.ReadError("unexpected end of the archive")
            self._position += len(data)
        return offset

    def tell(self) -> int:
        return self._position


def unpack(top: files.Top, archive: int, path: str, strip: int) -> dict[str, int]:
    """Unpack the tar or tar.gz that the descriptor `archive` gives below `path` of a volume: {entries, bytes}.

    Folders, files, links: each file takes its place when it is whole. Everything belongs to root of the tenant, and no
    bit of set-user-id is taken. Raises Refused for what is no archive, an entry that would leave the volume or is
    neither of the three; what was unpacked before stays.
    """
    done = {"entries": 0, "bytes": 0}
    below = PurePosixPath(files.relative(path))
    with io.BufferedReader(io.FileIO(archive, closefd=False), PIECE) as raw:
        zipped = raw.peek(2)[:2] == b"\x1f\x8b"
        stream: IO[bytes] = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if zipped else raw
        try:
            _entries(top, Bounded(stream), below, strip, done)
            if len(stream.read(HEADER_LIMIT + 1)) > HEADER_LIMIT:  # to its end, where the checksum is
                raise Refused("there is more behind the archive's end")
        except _UNREADABLE as error:
            raise Refused(f"not a tar or tar.gz archive: {error} (after {done['entries']} entries)") from None
        except OSError as error:
            if error.errno is None:  # gzip's own
                raise Refused(f"not a tar.gz archive: {error} (after {done['entries']} entries)") from None
            raise
    return done


def _entries(top: files.Top, bounded: Bounded, below: PurePosixPath, strip: int, done: dict[str, int]) -> None:
    tar = bounded.archive()
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # else it remembers all of them
        bounded.header()
        if done["entries"] >= ENTRIES_LIMIT:
            raise Refused(f"the archive has over {ENTRIES_LIMIT} entries")
        name = _stripped(member.name, strip)
        if name is None:
            continue
        try:
            place = str(below / name)
            with contextlib.nullcontext(top) if member.isdir() else files.near(top, place) as here:
                _entry(here, tar, bounded, member, place, below, strip)
        except OSError as error:
            raise files.told(error, f"entry {member.name!r} of the archive") from None
        done["entries"] += 1
        done["bytes"] += member.size if member.isreg() else 0
        bounded.header()


def _entry(top: files.Top, tar: tarfile.TarFile, bounded: Bounded, member: tarfile.TarInfo, path: str,
           below: PurePosixPath, strip: int) -> None:  # fmt: skip
    if member.isdir():
        files.make_folder(top, path, member.mode & 0o777)
    elif member.issym():
        files.place_link(top, path, member.linkname)
    elif member.islnk():
        source = _stripped(member.linkname, strip)
        if source is None:
            raise Refused(f"entry {member.name!r} is a link to what strip_components takes away")
        files.place_hard_link(top, path, str(below / source))
    elif member.isreg() and not member.issparse() and member.size >= 0:
        bounded.content()
        source_file = tar.extractfile(member)
        assert source_file is not None
        with files.staged(top) as (staged, out):
            with os.fdopen(out, "wb", closefd=False) as target:
                _copy(source_file, target, top)
            times = int(member.mtime) if 0 <= member.mtime < 1 << 40 else 0
            os.utime(out, (times, times))
            files.commit(top, staged, path, member.mode & 0o777, durable=False)
    else:
        raise Refused(f"entry {member.name!r} is neither a plain file nor a folder nor a link")


def _copy(source: IO[bytes], target: IO[bytes], top: files.Top) -> None:
    while piece := source.read(PIECE):
        files.check_room(top)
        target.write(piece)


def _stripped(name: str, strip: int) -> str | None:
    """The name without its first `strip` parts; None where none is left. Raises Refused where it leads out."""
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise Refused(f"entry {name!r} of the archive points outside of the folder that it is unpacked in")
    left = parts[strip:]
    return str(PurePosixPath(*left)) if left else None


def pack(top: files.Top, out: int, path: str, zipped: bool) -> dict[str, int]:
    """Write what is at `path` as tar (tar.gz) to the descriptor `out`: {entries, skipped}.

    A folder gives its contents, a file itself. Pipes, sockets and devices are left out and counted as skipped. A file
    that shrinks meanwhile fails the whole; what comes after a file's first size is not in.
    """
    done = {"entries": 0, "skipped": 0}
    with open(out, "wb", buffering=PIECE, closefd=False) as raw, contextlib.ExitStack() as stack:
        stream: IO[bytes] = raw
        if zipped:
            file = gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0)
            stream = cast(IO[bytes], stack.enter_context(file))
        tar = stack.enter_context(
            tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=PIECE, encoding="utf-8")
        )
        for found in files.walk(top, path):
            tar.members.clear()  # type: ignore[attr-defined]
            done["entries" if _add(tar, found) else "skipped"] += 1
    return done


def _add(tar: tarfile.TarFile, found: files.Found) -> bool:
    """Whether it is of a kind that goes into an archive."""
    info = tarfile.TarInfo(found.path)
    mode = found.status.st_mode
    info.mode, info.mtime = stat.S_IMODE(mode), int(found.status.st_mtime)
    info.uid, info.gid = found.status.st_uid, found.status.st_gid
    if stat.S_ISDIR(mode):
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    elif stat.S_ISLNK(mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(found.name, dir_fd=found.parent)
        tar.addfile(info)
    elif stat.S_ISREG(mode):
        try:
            fd = os.open(found.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=found.parent)
        except OSError:  # gone or swapped since it was looked at
            return False
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return False
            info.size = status.st_size
            tar.addfile(info, file)
    else:
        return False
    return True
