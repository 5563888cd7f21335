"""What the gateway and the other concerns of the pool see of volumes. Interfaces and values only.

Everywhere the tenant comes first, then the volume's name. Raises VolumeNotFound, RegistryUnavailable, and for files
what runtime.volumes.api says.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from quilt_fn.model.operation import OperationRecord
from quilt_fn.model.volume import Listing, Unpacked, VolumeCreate, VolumeInspection, VolumeRecord
from runtime.containers.api import Attached
from runtime.volumes.api import OpenFile

Users = Callable[[str, str], Iterable[str]]
"""(tenant id, volume name) → who has it attached, as `container:<name>` or `function:<name>`. From memory, no I/O."""


class Volumes(Protocol):
    async def create(self, tenant_id: str, body: VolumeCreate) -> VolumeRecord:
        """Raises NameTaken, InvalidValue (a limit where this machine has no means), VolumeFull."""
        ...

    async def list(
        self, tenant_id: str, limit: int, cursor: str | None, label: str | None = None
    ) -> tuple[builtins.list[VolumeRecord], str | None]:
        """Newest first. `label`: `key` or `key=value`."""
        ...

    async def get(self, tenant_id: str, name: str) -> VolumeRecord: ...

    async def inspect(self, tenant_id: str, name: str) -> VolumeInspection: ...

    async def rename(self, tenant_id: str, name: str, new_name: str) -> VolumeRecord:
        """Raises NameTaken, VolumeAttached (whoever has it attached knows it by its name)."""
        ...

    async def delete(self, tenant_id: str, name: str) -> OperationRecord:
        """Its name is free, and it is not found, when this returns; the operation removes its files.

        Raises VolumeAttached. Of two deletes at once one raises VolumeNotFound.
        """
        ...

    def attaching(self, tenant_id: str, wanted: Sequence[str]) -> AbstractContextManager[tuple[Attached, ...]]:
        """`<volume>:<target>[:ro]` checked and resolved. While the block runs, none of them can be deleted: within it
        the caller writes the record that its `Users` answers from.

        Raises VolumeNotFound, InvalidValue (a target that is refused, or named twice).
        """
        ...

    def attached(self, tenant_id: str, wanted: Sequence[str]) -> tuple[Attached, ...]:
        """As `attaching`, for a record that is written already: at a start."""
        ...

    def add_users(self, users: Users) -> None: ...

    # files

    async def ls(self, tenant_id: str, name: str, path: str, limit: int, cursor: str | None) -> Listing: ...

    async def open(self, tenant_id: str, name: str, path: str) -> OpenFile: ...

    async def write(
        self, tenant_id: str, name: str, path: str, body: AsyncIterator[bytes], mode: int | None
    ) -> int: ...

    async def remove(self, tenant_id: str, name: str, path: str, *, recursive: bool) -> None: ...

    async def unpack(
        self, tenant_id: str, name: str, path: str, strip: int, body: AsyncIterator[bytes]
    ) -> Unpacked: ...

    async def pack(self, tenant_id: str, name: str, path: str, *, zipped: bool) -> AsyncIterator[bytes]:
        """Raises before it returns where there is nothing to give."""
        ...
