"""Unpack a bundle into the store: in a process without rights, that sees nothing but the folder it fills.

Only folders and regular files are taken, with plain relative names; Debian 12's Python has no tarfile filter, and a
filter is no sandbox. Afterwards the files are root's, so that each tenant's id map shows them as its own root's,
read-only.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, cast

from runtime.spawner import tenants, trees
from runtime.spawner.names import Config
from runtime.spawner.protocol import Refused

FILES_LIMIT = 50_000
BYTES_LIMIT = 1 << 30
HEADER_LIMIT = 1 << 20


def unpack(config: Config, tenant: str, bundle: str, archive: int) -> None:
    """Unpack the tar.gz behind the descriptor `archive`. Idempotent; raises Refused (build) and leaves nothing."""
    target = config.bundle(tenant, bundle)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{bundle}.{os.getpid()}")
    trees.remove(temporary)
    inside = temporary / "fn"
    inside.mkdir(parents=True)
    builder = tenants.base_id(config, tenant) + tenants.BUILDER
    os.chown(inside, builder, builder)
    try:
        words = in_jail(inside, builder, lambda: _extract(archive))
        if words:
            raise Refused(words, "build")
        own_by_root(temporary)
        try:
            temporary.rename(target)
        except OSError:
            if not target.exists():  # somebody else was quicker with the same content
                raise
    finally:
        trees.remove(temporary)


def in_jail(folder: Path, uid: int, work: Callable[[], None]) -> str:
    """Run `work` in a child that has `folder` as its root and is the user `uid`; the words of its failure, or ""."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            os.chroot(folder)
            os.chdir("/")
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.umask(0o022)
            work()
            code = 0
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode()[:2000])
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        words = said.read().decode(errors="replace")
    failed = os.waitpid(pid, 0)[1] != 0
    return words or "the unpacking process died" if failed else ""


class Bounded:
    """A gzip's contents for tarfile, which reads a header of any size into memory: no header may be over the limit."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file
        self._left = HEADER_LIMIT

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._left:
            raise tarfile.ReadError("a header of the archive is too large")
        self._left -= size
        return self._file.read(size)

    def archive(self) -> tarfile.TarFile:
        return tarfile.open(fileobj=cast(IO[bytes], self), mode="r:")

    def content(self) -> None:
        """What is read from now on is a file's content, which comes in pieces."""
        self._left = BYTES_LIMIT + HEADER_LIMIT

    def header(self) -> None:
        self._left = HEADER_LIMIT

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _extract(archive: int) -> None:
    total = 0
    with os.fdopen(archive, "rb", closefd=False) as file, gzip.GzipFile(fileobj=file) as unzipped:
        bounded = Bounded(unzipped)
        tar = bounded.archive()
        for count, member in enumerate(tar):
            bounded.header()
            if count >= FILES_LIMIT:
                raise ValueError(f"over {FILES_LIMIT} entries")
            name = PurePosixPath(member.name)
            plain = member.size >= 0 and (member.isdir() or member.isreg())
            if name.is_absolute() or ".." in name.parts or not plain:
                raise ValueError(f"entry {member.name!r} is not a plain file or folder below the bundle")
            total += member.size
            if total > BYTES_LIMIT:
                raise ValueError(f"over {BYTES_LIMIT} bytes unpacked")
            path = Path("/") / name
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            bounded.content()
            source = tar.extractfile(member)
            assert source is not None
            fd = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o755 if member.mode & 0o100 else 0o644
            )
            with os.fdopen(fd, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
            bounded.header()


def own_by_root(folder: Path) -> None:
    """Give everything below `folder` to root. Links are not followed; nobody else has the folder open to change it."""
    for path, folders, files, fd in os.fwalk(folder):
        os.fchown(fd, 0, 0)
        for name in (*folders, *files):
            os.chown(name, 0, 0, dir_fd=fd, follow_symlinks=False)
        del path
