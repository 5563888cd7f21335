"""What the pool sees of one node's volumes: ids, and paths that are resolved beneath a volume. Interfaces only, no I/O.

Everywhere: InvalidValue for a path that would leave the volume or names the wrong kind of thing, FileNotThere,
VolumeNotFound, VolumeFull, SpawnerError.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Measure:
    """`complete`: whether everything was counted. `free` bytes could still be written."""

    size_bytes: int
    files: int
    complete: bool
    free_bytes: int


class OpenFile(Protocol):
    """An open file: it stays what it was, whatever takes its place meanwhile. Closed by the caller."""

    size: int
    mode: int
    modified_at: float
    """Epoch seconds."""

    def read(self, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes `start` to `end` (not included) in pieces. Raises FileNotThere where the file has shrunk."""
        ...

    def close(self) -> None: ...


class VolumeStore(Protocol):
    async def make(self, tenant_id: str, volume_id: str, size_mb: int | None) -> None:
        """Raises InvalidValue where this machine can't limit sizes and a limit is asked for."""
        ...

    async def drop(self, tenant_id: str, volume_id: str) -> None:
        """Remove it and all that is in it. Idempotent."""
        ...

    async def there(self, tenant_id: str, volume_id: str) -> bool: ...

    async def measure(self, tenant_id: str, volume_id: str) -> Measure: ...

    async def open(self, tenant_id: str, volume_id: str, path: str) -> OpenFile: ...

    async def write(
        self, tenant_id: str, volume_id: str, path: str, body: AsyncIterator[bytes], mode: int | None
    ) -> int:
        """Replace the file in one step when `body` has ended (on disk by then); its size. Folders on the way are made.

        With mode None the file keeps mode and owner of the one before, or gets 0644. In bounded memory.
        """
        ...

    async def list(
        self, tenant_id: str, volume_id: str, path: str, after: str, limit: int
    ) -> tuple[list[Mapping[str, Any]], bool]:
        """Entries {name, kind, size, mode, modified_at, target?} behind the name `after`; whether there are more."""
        ...

    async def remove(self, tenant_id: str, volume_id: str, path: str, *, recursive: bool) -> None: ...

    async def unpack(
        self, tenant_id: str, volume_id: str, path: str, strip: int, body: AsyncIterator[bytes]
    ) -> tuple[int, int]:
        """Unpack a tar or tar.gz below `path`: (entries, bytes). All of it, or nothing."""
        ...

    def pack(self, tenant_id: str, volume_id: str, path: str, *, zipped: bool) -> AsyncIterator[bytes]:
        """What is at `path` as a tar (tar.gz). Raises before its first piece where there is nothing to give."""
        ...
