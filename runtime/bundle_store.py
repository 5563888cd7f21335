"""Uploaded bundles as the node keeps them: content-addressed archives, checked before they are kept.

Not here: unpacking (the spawner, in a jail). Only a tenant's own bundles are found. What `check` refuses, `_extract`
refuses too.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import os
import re
import tarfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from quilt_fn.errors import BundleInvalid, BundleNotFound, PayloadTooLarge
from runtime.spawner.archives import HEADER_LIMIT, Bounded

UPLOAD_LIMIT = 256 << 20
UNPACKED_LIMIT = 1 << 30
FILES_LIMIT = 50_000
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class BundleStore:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, tenant_id: str, bundle_id: str) -> Path:
        if not _TENANT.fullmatch(tenant_id) or not re.fullmatch(r"[0-9a-f]{64}", bundle_id):
            raise BundleNotFound(f"no bundle {bundle_id!r}"[:200])
        return self.folder / tenant_id / f"{bundle_id}.tar.gz"

    def open(self, tenant_id: str, bundle_id: str) -> int:
        """A descriptor of the archive. Raises BundleNotFound."""
        try:
            return os.open(self.path(tenant_id, bundle_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise BundleNotFound(f"bundle {bundle_id} is not on this node; upload it again") from None

    def has(self, tenant_id: str, bundle_id: str) -> bool:
        return self.path(tenant_id, bundle_id).exists()

    async def put(self, tenant_id: str, body: AsyncIterator[bytes]) -> tuple[str, int, bool]:
        """(sha256, bytes, whether it is new). Raises BundleInvalid, PayloadTooLarge; keeps nothing then."""
        folder = self.path(tenant_id, "0" * 64).parent
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        temporary = folder / f".upload-{os.urandom(8).hex()}"
        digest, size = hashlib.sha256(), 0
        try:
            file = await asyncio.to_thread(open, temporary, "wb")
            try:
                async for piece in body:
                    size += len(piece)
                    if size > UPLOAD_LIMIT:
                        raise PayloadTooLarge(f"a bundle may have {UPLOAD_LIMIT >> 20} MB at most, packed")
                    digest.update(piece)
                    await asyncio.to_thread(file.write, piece)
                await asyncio.to_thread(_sync, file)
            finally:
                await asyncio.to_thread(file.close)
            await asyncio.to_thread(check, temporary)
            target = self.path(tenant_id, digest.hexdigest())
            new = not await asyncio.to_thread(target.exists)
            await asyncio.to_thread(temporary.rename, target)
            return digest.hexdigest(), size, new
        finally:
            await asyncio.to_thread(temporary.unlink, missing_ok=True)

    async def put_source(self, tenant_id: str, filename: str, text: str) -> str:
        """A bundle of one file; its sha256."""
        raw = text.encode()

        def pack() -> bytes:
            out = io.BytesIO()
            with (
                gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as zipped,
                tarfile.open(fileobj=zipped, mode="w") as tar,
            ):
                info = tarfile.TarInfo(filename)
                info.size, info.mode = len(raw), 0o644
                tar.addfile(info, io.BytesIO(raw))
            return out.getvalue()

        packed = await asyncio.to_thread(pack)

        async def once() -> AsyncIterator[bytes]:
            yield packed

        return (await self.put(tenant_id, once()))[0]


def _sync(file: io.BufferedWriter) -> None:
    file.flush()
    os.fsync(file.fileno())


def check(path: Path) -> None:
    """Raise BundleInvalid unless the file is a tar.gz of plain files and folders below its top."""
    total = 0
    try:
        with gzip.GzipFile(path) as unzipped:
            bounded = Bounded(cast(IO[bytes], unzipped))
            for count, member in enumerate(bounded.archive()):
                bounded.header()
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    raise BundleInvalid(
                        f"entry {member.name!r} points outside of the bundle; pack it from within its folder"
                    )
                if member.size < 0 or not (member.isdir() or member.isreg()):
                    raise BundleInvalid(
                        f"entry {member.name!r} is a link or a device; a bundle holds files and folders"
                    )
                total += member.size
                if count >= FILES_LIMIT or total > UNPACKED_LIMIT:
                    raise BundleInvalid(f"over {FILES_LIMIT} entries or {UNPACKED_LIMIT >> 20} MB unpacked")
            if len(unzipped.read(HEADER_LIMIT + 1)) > HEADER_LIMIT:  # to its end, where the checksum is
                raise BundleInvalid("there is more behind the archive's end")
    except (
        tarfile.TarError,
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        LookupError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise BundleInvalid(f"not a tar.gz archive: {error}") from None
