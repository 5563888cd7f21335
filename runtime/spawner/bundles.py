"""Unpack a bundle into the store: in a process without rights, that sees nothing but the folder it fills.

Only folders and regular files are taken, with plain relative names; Debian 12's Python has no tarfile filter, and a
filter is no sandbox. Afterwards the files are root's, so that each tenant's id map shows them as its own root's,
read-only.
"""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import IO, cast

from runtime.spawner import jail, tenants, trees
from runtime.spawner.archives import Bounded
from runtime.spawner.names import Config

FILES_LIMIT = 50_000
BYTES_LIMIT = 1 << 30


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
        folder = os.open(inside, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            jail.call(lambda: _extract_as(builder, folder, archive), [folder, archive], "build")
        finally:
            os.close(folder)
        own_by_root(temporary)
        try:
            temporary.rename(target)
        except OSError:
            if not target.exists():  # somebody else was quicker with the same content
                raise
    finally:
        trees.remove(temporary)


def _extract_as(uid: int, folder: int, archive: int) -> None:
    jail.as_user(folder, uid)
    _extract(archive)


def _extract(archive: int) -> None:
    total = 0
    with os.fdopen(archive, "rb", closefd=False) as file, gzip.GzipFile(fileobj=file) as unzipped:
        bounded = Bounded(cast(IO[bytes], unzipped))
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
