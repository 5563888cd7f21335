"""Tar and tar.gz as streams: read within limits however hostile, and written from a folder that somebody changes.

Runs in a jail (`jail`); what makes an entry acceptable for bundles is in `bundles`, for volumes here. Debian 12's
Python has no tarfile filter, and a filter is no sandbox.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import itertools
import os
import stat
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Self, cast

from runtime.spawner import staging
from runtime.spawner import volume_files as files
from runtime.spawner.protocol import Refused

HEADER_LIMIT = 1 << 20
ENTRIES_LIMIT = 1_000_000
PIECE = 1 << 18
SMALL = 64 << 10
UNTOLD_LIMIT = 8 << 20
"""Of a file that doesn't say how large it is, which has to be read into memory."""
_GONE = (errno.ENOENT, errno.ESTALE, errno.ELOOP, errno.ENXIO)
"""Since it was looked at, or swapped for something else."""
_UNREADABLE = (
    tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, LookupError, ArithmeticError, RecursionError
)  # fmt: skip


WHOLE = b"."
"""What whoever sends an archive says when all of it was sent: the end of a pipe alone does not tell."""


class _Entry(tarfile.TarInfo):
    """tarfile takes a broken header behind the first entry for the archive's end; here it is an error."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.HeaderError as error:
            if type(error).__name__ in ("InvalidHeaderError", "TruncatedHeaderError"):
                raise tarfile.ReadError(f"{error} at byte {tarfile_.offset}") from None
            raise


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
        return tarfile.open(fileobj=cast(IO[bytes], self), mode="r:", tarinfo=_Entry)

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


def unpack(top: files.Top, archive: int, whole: int, path: str, strip: int) -> dict[str, int]:
    """Unpack the tar or tar.gz that the descriptor `archive` gives below `path` of a volume: {entries, bytes}.

    Folders, files, links, all of them or none (`staging`): they take their places when the archive is at its end and
    WHOLE comes out of the descriptor `whole`. Everything belongs to root of the tenant, and no bit of set-user-id is
    taken. Raises Refused for what is no archive, an entry that would leave the volume or is neither of the three, and
    what does not fit what is there.
    """
    with staging.opened(top, path) as stage:
        done = {"entries": 0, "bytes": 0}
        with io.BufferedReader(io.FileIO(archive, closefd=False), PIECE) as raw:
            zipped = raw.peek(2)[:2] == b"\x1f\x8b"
            stream: IO[bytes] = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if zipped else raw
            try:
                _Unpacking(top, stage.place, PurePosixPath(path), strip, done).entries(Bounded(stream))
                if len(stream.read(HEADER_LIMIT + 1)) > HEADER_LIMIT:  # to its end, where the checksum is
                    raise Refused("there is more behind the archive's end")
            except _UNREADABLE as error:
                raise Refused(f"not a tar or tar.gz archive: {error} (after {done['entries']} entries)") from None
            except OSError as error:
                if error.errno is None:  # gzip's own
                    raise Refused(f"not a tar.gz archive: {error} (after {done['entries']} entries)") from None
                raise
        if os.read(whole, 1) != WHOLE:
            raise Refused(f"the archive was cut off: its sender left (after {done['entries']} entries)")
        stage.put()
    return done


@dataclass(frozen=True, slots=True)
class _Unpacking:
    """Of one archive into the stage's `place`; it is to lie `below` in `top`."""

    top: files.Top
    place: files.Top
    below: PurePosixPath
    strip: int
    done: dict[str, int]

    def entries(self, bounded: Bounded) -> None:
        tar = bounded.archive()
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else it remembers all of them
            bounded.header()
            if self.done["entries"] >= ENTRIES_LIMIT:
                raise Refused(f"the archive has over {ENTRIES_LIMIT} entries")
            name = _stripped(member.name, self.strip)
            if name is None:
                continue
            files.relative(str(self.below / name))  # its place must be one that a path can name
            try:
                self._entry(tar, bounded, member, name)
            except OSError as error:
                what = f"entry {member.name!r} of the archive"
                raise files.told(error, what, str(self.below / name), self.top.noun) from None
            self.done["entries"] += 1
            self.done["bytes"] += member.size if member.isreg() else 0
            bounded.header()

    def _entry(self, tar: tarfile.TarFile, bounded: Bounded, member: tarfile.TarInfo, name: str) -> None:
        if member.isdir():
            files.make_folder(self.place, name, member.mode & 0o777)
        elif member.issym():
            files.place_link(self.place, name, member.linkname)
        elif member.islnk():
            self._hard_link(member, name)
        elif member.isreg() and not member.issparse() and member.size >= 0:
            bounded.content()
            source = tar.extractfile(member)
            assert source is not None
            with files.staged(self.place) as (staged, out):
                with os.fdopen(out, "wb", closefd=False) as target:
                    _copy(source, target, self.place)
                times = int(member.mtime) if 0 <= member.mtime < 1 << 40 else 0
                os.utime(out, (times, times))
                files.commit(self.place, staged, name, member.mode & 0o777, durable=False)
        else:
            raise Refused(f"entry {member.name!r} is neither a plain file nor a folder nor a link")

    def _hard_link(self, member: tarfile.TarInfo, name: str) -> None:
        """To a file of the archive, or to one that is there."""
        source = _stripped(member.linkname, self.strip)
        if source is None:
            raise Refused(f"entry {member.name!r} is a link to what strip_components takes away")
        try:
            files.place_hard_link(self.place, name, self.place, source)
        except FileNotFoundError:
            files.place_hard_link(self.place, name, self.top, str(self.below / source))


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
    """Write what is at `path` as tar (tar.gz) to the descriptor `out`: {entries}.

    A folder gives its contents, a file itself. Of a folder, pipes, sockets and devices are left out, what is mounted in
    it, and files of the kernel's that nobody can read (some of /proc/sys); one of them that `path` names is refused. A
    large file that shrinks meanwhile, and any other that can't be read, fails the whole; what comes after a file's
    first size is not in.
    """
    done = {"entries": 0}
    walked = files.walk(top, path)
    first = next(walked, None)  # raises before anything was written, so that whoever asks is told
    if first is not None and first.named and not (stat.S_ISREG(mode := first.status.st_mode) or stat.S_ISLNK(mode)):
        raise Refused(f"{top.shown(path)} is a pipe, a socket or a device: archives hold files, folders and links")
    with open(out, "wb", buffering=PIECE, closefd=False) as raw, contextlib.ExitStack() as stack:
        stream: IO[bytes] = raw
        if zipped:
            file = gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0)
            stream = cast(IO[bytes], stack.enter_context(file))
        tar = stack.enter_context(
            tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=PIECE, encoding="utf-8")
        )
        for found in itertools.chain(() if first is None else (first,), walked):
            tar.members.clear()  # type: ignore[attr-defined]
            shown = top.shown(path if found.named else str(PurePosixPath(path, found.path)))
            try:
                if _add(tar, found, shown):
                    done["entries"] += 1
                elif found.named:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            except ProcessLookupError:  # a file of /proc whose process has ended
                continue
            except OSError as error:
                # Root can read what is on a disk; what is empty there gives no error either.
                if not found.named and (isinstance(error, PermissionError) or not found.status.st_size):
                    continue
                raise files.told(error, shown, noun=top.noun) from None
    return done


def _add(tar: tarfile.TarFile, found: files.Found, shown: str) -> bool:
    """Whether it is of a kind that goes into an archive, and still there."""
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
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(found.name, flags, dir_fd=found.parent)
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return False
            info.size, content = _content(file, shown)
            tar.addfile(info, content)
    else:
        return False
    return True


def _content(file: IO[bytes], shown: str) -> tuple[int, IO[bytes]]:
    """A file's size, and what to read that from.

    The kernel's own files (/proc, /sys) say 0 or 4096 whatever is in them: what says to be small is read to its end.
    Raises Refused for one that says to be empty, and is too large for that.
    """
    size = os.fstat(file.fileno()).st_size
    if size > SMALL:
        return size, file
    data = file.read(size or UNTOLD_LIMIT + 1)
    if data is None:  # a file of the kernel's that would block
        raise Refused(f"{shown} has nothing to read now")
    if size == 0 and len(data) > UNTOLD_LIMIT:
        size = os.fstat(file.fileno()).st_size  # of one that was just being written
        if size < len(data):
            limit = f"{UNTOLD_LIMIT >> 20} MB"
            raise Refused(f"{shown} doesn't say how large it is, and has over {limit}: read it by a command")
        file.seek(0)
        return size, file
    return len(data), io.BytesIO(data)
