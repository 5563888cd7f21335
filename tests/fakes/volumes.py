"""A VolumeStore in memory: a volume is a dict from path to bytes. What is to fail a test sets on the object.

Not here: what is hostile (the spawner's tests have the real one).
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quilt_fn.errors import FileNotThere, InvalidValue, QuiltError, VolumeFull
from runtime.volumes.api import Measure, VolumeStore


@dataclass(slots=True)
class MemoryFile:
    content: bytes
    mode: int = 0o644
    modified_at: float = 1_700_000_000.0
    closed: bool = False

    @property
    def size(self) -> int:
        return len(self.content)

    async def read(self, start: int, end: int) -> AsyncIterator[bytes]:
        for at in range(start, end, 3):
            yield self.content[at : min(at + 3, end)]

    def close(self) -> None:
        self.closed = True


class FakeVolumeStore:
    """`volumes` by (tenant id, volume id). `hold_drop`: drops wait for it where it is set."""

    def __init__(self) -> None:
        self.volumes: dict[tuple[str, str], dict[str, bytes]] = {}
        self.limits: dict[str, int | None] = {}
        self.opened: list[MemoryFile] = []
        self.fail_make: QuiltError | None = None
        self.hold_drop: asyncio.Event | None = None

    async def make(self, tenant_id: str, volume_id: str, size_mb: int | None) -> None:
        if self.fail_make is not None:
            raise self.fail_make
        self.volumes[tenant_id, volume_id] = {}
        self.limits[volume_id] = size_mb

    async def drop(self, tenant_id: str, volume_id: str) -> None:
        if self.hold_drop is not None:
            await self.hold_drop.wait()
        self.volumes.pop((tenant_id, volume_id), None)

    async def there(self, tenant_id: str, volume_id: str) -> bool:
        return (tenant_id, volume_id) in self.volumes

    async def measure(self, tenant_id: str, volume_id: str) -> Measure:
        files = self.volumes[tenant_id, volume_id]
        return Measure(sum(map(len, files.values())), len(files), True, 1 << 30)

    async def open(self, tenant_id: str, volume_id: str, path: str) -> MemoryFile:
        files = self.volumes[tenant_id, volume_id]
        if any(name.startswith(f"{path}/") for name in files):
            raise InvalidValue(f"{path!r} is a folder")
        if path not in files:
            raise FileNotThere(f"{path!r} is not there")
        self.opened.append(MemoryFile(files[path]))
        return self.opened[-1]

    async def write(
        self, tenant_id: str, volume_id: str, path: str, body: AsyncIterator[bytes], mode: int | None
    ) -> int:
        if path.startswith("/") or ".." in path.split("/"):
            raise InvalidValue(f"path {path!r} does not lie below the volume")
        content = b"".join([piece async for piece in body])
        limit = self.limits[volume_id]
        if limit is not None and len(content) > limit << 20:
            raise VolumeFull("there is no room left for this in the volume, or on the disk below it")
        self.volumes[tenant_id, volume_id][path] = content
        return len(content)

    async def list(
        self, tenant_id: str, volume_id: str, path: str, after: str, limit: int
    ) -> tuple[builtins.list[Mapping[str, Any]], bool]:
        names = sorted(name for name in self.volumes[tenant_id, volume_id] if name > after)
        entries = [{"name": n, "kind": "file", "size": 1, "mode": "644", "modified_at": 0.0} for n in names[:limit]]
        return entries, len(names) > limit

    async def remove(self, tenant_id: str, volume_id: str, path: str, *, recursive: bool) -> None:
        if self.volumes[tenant_id, volume_id].pop(path, None) is None:
            raise FileNotThere(f"{path!r} is not there")

    async def unpack(
        self, tenant_id: str, volume_id: str, path: str, strip: int, body: AsyncIterator[bytes]
    ) -> tuple[int, int]:
        return 1, len(b"".join([piece async for piece in body]))

    async def pack(self, tenant_id: str, volume_id: str, path: str, *, zipped: bool) -> AsyncIterator[bytes]:
        files = self.volumes[tenant_id, volume_id]
        if path != "." and path not in files:
            raise FileNotThere(f"{path!r} is not there")
        for content in files.values():
            yield content


if TYPE_CHECKING:

    def _is_a_store(store: FakeVolumeStore) -> VolumeStore:
        return store
