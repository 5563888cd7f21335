"""Volumes of this node, by the spawner: it resolves every path and hands out descriptors, this moves the bytes.

Not here: names, records, attachments (`pool.volumes`); what is allowed in a path or an archive (`runtime.spawner`).
"""

from __future__ import annotations

import builtins
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any

from quilt_fn.errors import FileNotThere, InvalidValue, QuiltError, SpawnerError, VolumeFull, VolumeNotFound
from runtime.spawner_client import SpawnerClient, SpawnerFailed
from runtime.volumes import streams
from runtime.volumes.api import Measure
from runtime.volumes.archives import ARCHIVE_TIMEOUT_S, Archives
from runtime.volumes.streams import DiskFile

DROP_TIMEOUT_S = 1800.0
DROP_TRIES = 3


class NodeVolumes:
    """See runtime.volumes.api.VolumeStore for the contract of each method."""

    def __init__(self, spawner: SpawnerClient) -> None:
        self._spawner = spawner
        self._archives = Archives()

    async def make(self, tenant_id: str, volume_id: str, size_mb: int | None) -> None:
        await self._ask("volume_make", tenant_id, volume_id, size_mb=size_mb)

    async def drop(self, tenant_id: str, volume_id: str) -> None:
        for tries_left in reversed(range(DROP_TRIES)):
            try:
                await self._ask("volume_drop", tenant_id, volume_id, timeout_s=DROP_TIMEOUT_S)
                return
            except SpawnerError:  # it died in the middle: the next one is asked again, as soon as it is there
                if tries_left == 0:
                    raise

    async def there(self, tenant_id: str, volume_id: str) -> bool:
        return bool((await self._ask("volume_stored", tenant_id, volume_id))[0]["there"])

    async def measure(self, tenant_id: str, volume_id: str) -> Measure:
        found, _ = await self._ask("volume_measure", tenant_id, volume_id)
        return Measure(int(found["bytes"]), int(found["files"]), bool(found["complete"]), int(found["free"]))

    async def open(self, tenant_id: str, volume_id: str, path: str) -> DiskFile:
        found, (fd,) = await self._ask("volume_open", tenant_id, volume_id, path=path)
        return DiskFile(fd, int(found["size"]), int(found["mode"]), float(found["modified_at"]))

    async def write(
        self, tenant_id: str, volume_id: str, path: str, body: AsyncIterator[bytes], mode: int | None
    ) -> int:
        upload = secrets.token_hex(10)
        answer, (fd,) = await self._ask("volume_create", tenant_id, volume_id, upload=upload, path=path)
        try:
            try:
                size = await streams.fill(fd, body, int(answer["reserve"]))
            finally:
                os.close(fd)
            await self._ask("volume_commit", tenant_id, volume_id, upload=upload, path=path, mode=mode)
        except BaseException:
            with contextlib.suppress(QuiltError):  # the spawner sweeps it at its next start
                await self._ask("volume_discard", tenant_id, volume_id, upload=upload)
            raise
        return size

    async def list(
        self, tenant_id: str, volume_id: str, path: str, after: str, limit: int
    ) -> tuple[builtins.list[Mapping[str, Any]], bool]:
        found, _ = await self._ask("volume_list", tenant_id, volume_id, path=path, after=after, limit=limit)
        return found["entries"], bool(found["more"])

    async def remove(self, tenant_id: str, volume_id: str, path: str, *, recursive: bool) -> None:
        await self._ask("volume_remove", tenant_id, volume_id, path=path, recursive=recursive)

    async def unpack(
        self, tenant_id: str, volume_id: str, path: str, strip: int, body: AsyncIterator[bytes]
    ) -> tuple[int, int]:
        async def ask(fds: builtins.list[int]) -> dict[str, Any]:
            how: dict[str, Any] = {"path": path, "strip": strip, "timeout_s": ARCHIVE_TIMEOUT_S}
            return (await self._ask("volume_unpack", tenant_id, volume_id, fds, **how))[0]

        done = await self._archives.into(ask, body)
        return int(done["entries"]), int(done["bytes"])

    def pack(self, tenant_id: str, volume_id: str, path: str, *, zipped: bool) -> AsyncIterator[bytes]:
        async def ask(fds: builtins.list[int]) -> dict[str, Any]:
            how: dict[str, Any] = {"path": path, "zipped": zipped, "timeout_s": ARCHIVE_TIMEOUT_S}
            return (await self._ask("volume_pack", tenant_id, volume_id, fds, **how))[0]

        return self._archives.out_of(ask)

    async def _ask(
        self, op: str, tenant_id: str, volume_id: str, fds: builtins.list[int] | None = None, *,
        timeout_s: float = 120.0, **fields: Any,
    ) -> tuple[dict[str, Any], builtins.list[int]]:  # fmt: skip
        try:
            return await self._spawner.request(
                op, fds, timeout_s=timeout_s, tenant=tenant_id, volume=volume_id, **fields
            )
        except SpawnerFailed as error:
            raise told(error) from None
        except UnicodeEncodeError:
            raise InvalidValue("a path must be text that UTF-8 can hold") from None


def told(error: SpawnerFailed) -> QuiltError:
    """What the spawner's refusal of a path, a file or an archive means."""
    if error.kind == "refused":
        return InvalidValue(error.message)
    if error.kind == "absent":
        kind = VolumeNotFound if error.details and error.details.get("what") == "volume" else FileNotThere
        return kind(error.message)
    if error.kind == "full":
        return VolumeFull(error.message)
    return SpawnerError(error.message)
