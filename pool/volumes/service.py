"""`pool.volumes.api.Volumes`: the verbs, each a few calls to registry and store.

Not here: HTTP; how a volume gets into a container (the runtime mounts what `attaching` resolves).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import builtins
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pool.api import Operations, Report
from pool.clock import iso
from pool.quotas import AtOnce
from pool.volumes import api, targets
from pool.volumes.registry import Entry, VolumeRegistry
from quilt_fn.errors import InvalidValue, QuiltError, VolumeAttached, VolumeNotFound
from quilt_fn.model.common import new_id
from quilt_fn.model.operation import OperationRecord
from quilt_fn.model.volume import Entry as FileEntry
from quilt_fn.model.volume import Listing, Unpacked, VolumeCreate, VolumeInspection, VolumeRecord
from quilt_fn.states import VolumeState
from runtime.containers.api import Attached
from runtime.volumes import streams
from runtime.volumes.api import OpenFile, VolumeStore

log = logging.getLogger(__name__)

DELETE_TIMEOUT_S = 1800.0
LOOK_S = 1.0
ARCHIVES_MAX = 6
"""Of a tenant at once, in and out, of volumes and containers: the node has 16 places for each of
the two, in which two tenants leave room for a third."""


class Volumes:
    def __init__(
        self, registry: VolumeRegistry, store: VolumeStore, operations: Operations, wall: Callable[[], float]
    ) -> None:
        self._registry = registry
        self._store = store
        self._operations = operations
        self._wall = wall
        self.archives = AtOnce(
            "archives", ARCHIVES_MAX, "archives are on their way in or out", "wait for one of them to end"
        )
        """Also those of containers."""
        self._users: list[api.Users] = []
        self._held: Counter[str] = Counter()
        """Volume ids that something is just being attached to."""
        self.quota: Callable[[str, int | None], contextlib.AbstractContextManager[None]] = lambda *_: (
            contextlib.nullcontext()
        )
        """Held around the record of a new volume, with its size limit in MiB; raises QuotaExceeded."""
        self._leaving: set[str] = set()
        """Volume ids whose delete or rename is on its way to Redis."""
        self._unfinished: dict[str, Entry] = {}
        """What is half made or half deleted, by volume id; it is to go."""

    async def start(self) -> None:
        """Load, and finish what a crash left half made or half deleted. Raises RegistryUnavailable."""
        await self._registry.load()
        for entry in self._registry.all():
            if entry.state is VolumeState.READY:
                continue
            await self._remove_soon(entry)

    async def run(self) -> None:
        """Remove what could not be removed when it was due, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            for entry in builtins.list(self._unfinished.values()):
                await self._remove_soon(entry)

    async def _remove_soon(self, entry: Entry) -> None:
        try:
            await self._remove(entry)
        except QuiltError as error:
            log.warning("volume %s is removed later: %s", entry.volume_id, error.message)

    async def _remove(self, entry: Entry) -> None:
        """The files, then the record; where that fails, it is tried again until it is done. Idempotent."""
        self._unfinished.pop(entry.volume_id, None)
        try:
            await self._store.drop(entry.tenant_id, entry.volume_id)
            await self._registry.forget(entry)
        except BaseException:
            self._unfinished[entry.volume_id] = entry
            raise

    def add_users(self, users: api.Users) -> None:
        self._users.append(users)

    # --- volumes --------------------------------------------------------------------------------------------------

    async def create(self, tenant_id: str, body: VolumeCreate) -> VolumeRecord:
        entry = Entry(
            new_id("vol"), tenant_id, body.name, VolumeState.CREATING, dict(body.labels), body.size_limit_mb,
            iso(self._wall()),
        )  # fmt: skip
        with self.quota(tenant_id, body.size_limit_mb):
            await self._registry.add(entry)
        try:
            await self._store.make(tenant_id, entry.volume_id, body.size_limit_mb)
            entry = await self._registry.move(entry, VolumeState.READY)
        except BaseException:
            await self._remove_soon(entry)
            raise
        return self._record(entry)

    async def list(
        self, tenant_id: str, limit: int, cursor: str | None, label: str | None = None
    ) -> tuple[builtins.list[VolumeRecord], str | None]:
        found, after = self._registry.list(tenant_id, limit, cursor, label)
        return [self._record(entry) for entry in found], after

    async def get(self, tenant_id: str, name: str) -> VolumeRecord:
        return self._record(self._registry.get(tenant_id, name))

    async def inspect(self, tenant_id: str, name: str) -> VolumeInspection:
        entry = self._registry.get(tenant_id, name)
        found = await self._store.measure(tenant_id, entry.volume_id)
        return VolumeInspection(
            **self._record(entry).model_dump(),
            size_bytes=found.size_bytes, file_count=found.files, complete=found.complete, free_bytes=found.free_bytes,
        )  # fmt: skip

    async def rename(self, tenant_id: str, name: str, new_name: str) -> VolumeRecord:
        with self._alone(tenant_id, name, "renamed") as entry:
            if new_name != name:
                entry = await self._registry.rename(entry, new_name)
        return self._record(entry)

    async def delete(self, tenant_id: str, name: str) -> OperationRecord:
        with self._alone(tenant_id, name, "deleted") as entry:
            entry = await self._registry.move(entry, VolumeState.DELETING)

        async def work(report: Report) -> dict[str, Any]:
            await self._remove(entry)
            return {"volume_id": entry.volume_id, "name": name}

        try:
            return await self._operations.begin(
                tenant_id, "volume.delete", ("volume", entry.volume_id), work, timeout_s=DELETE_TIMEOUT_S,
                cancellable=False,
            )  # fmt: skip
        except BaseException:
            self._unfinished[entry.volume_id] = entry  # it is not there any more for its user, and goes without
            raise

    @contextlib.contextmanager
    def _alone(self, tenant_id: str, name: str, what: str) -> Iterator[Entry]:
        """While the block runs nothing can be attached. Raises VolumeAttached where something is."""
        entry = self._registry.get(tenant_id, name)
        if entry.volume_id in self._leaving:
            raise VolumeNotFound(f"volume {name!r} is just being deleted or renamed")
        users = self._attached_to(entry)
        if users or self._held[entry.volume_id]:
            raise VolumeAttached(
                f"volume {name!r} is attached and can't be {what}",
                details={"attached_to": users},
                hint=f"Delete what uses it first: {', '.join(users) or 'a container that is being made'}.",
            )
        self._leaving.add(entry.volume_id)
        try:
            yield entry
        finally:
            self._leaving.discard(entry.volume_id)

    def _attached_to(self, entry: Entry) -> builtins.list[str]:
        return sorted({user for users in self._users for user in users(entry.tenant_id, entry.name)})

    def _record(self, entry: Entry) -> VolumeRecord:
        return VolumeRecord(
            volume_id=entry.volume_id, tenant_id=entry.tenant_id, name=entry.name, state=entry.state,
            labels=entry.labels, size_limit_mb=entry.size_limit_mb, created_at=entry.created_at,
            attached_to=self._attached_to(entry),
        )  # fmt: skip

    # --- attaching ------------------------------------------------------------------------------------------------

    def attached(self, tenant_id: str, wanted: Sequence[str]) -> tuple[Attached, ...]:
        found = []
        for each in targets.parse(wanted):
            entry = self._registry.get(tenant_id, each.volume)
            if entry.volume_id in self._leaving:
                raise VolumeNotFound(f"volume {each.volume!r} is just being deleted or renamed")
            found.append(Attached(entry.volume_id, each.target, each.read_only))
        return tuple(found)

    @contextlib.contextmanager
    def attaching(self, tenant_id: str, wanted: Sequence[str]) -> Iterator[tuple[Attached, ...]]:
        found = self.attached(tenant_id, wanted)
        held = [each.volume_id for each in found]
        self._held.update(held)
        try:
            yield found
        finally:
            self._held.subtract(held)
            self._held += Counter()  # forget those at zero

    # --- files ----------------------------------------------------------------------------------------------------

    async def ls(self, tenant_id: str, name: str, path: str, limit: int, cursor: str | None) -> Listing:
        entry = self._registry.get(tenant_id, name)
        after = _name_of(cursor) if cursor else ""
        found, more = await self._store.list(tenant_id, entry.volume_id, path, after, limit)
        return Listing(
            path=_shown(path),
            entries=[_file_entry(dict(each)) for each in found],
            next_cursor=_cursor_of(str(found[-1]["name"])) if more and found else None,
        )

    async def open(self, tenant_id: str, name: str, path: str) -> OpenFile:
        return await self._store.open(tenant_id, self._registry.get(tenant_id, name).volume_id, path)

    async def write(self, tenant_id: str, name: str, path: str, body: AsyncIterator[bytes], mode: int | None) -> int:
        return await self._store.write(tenant_id, self._registry.get(tenant_id, name).volume_id, path, body, mode)

    async def remove(self, tenant_id: str, name: str, path: str, *, recursive: bool) -> None:
        volume_id = self._registry.get(tenant_id, name).volume_id
        await self._store.remove(tenant_id, volume_id, path, recursive=recursive)

    async def unpack(self, tenant_id: str, name: str, path: str, strip: int, body: AsyncIterator[bytes]) -> Unpacked:
        volume_id = self._registry.get(tenant_id, name).volume_id
        with self.archives.one_more(tenant_id):
            entries, size = await self._store.unpack(tenant_id, volume_id, path, strip, body)
        return Unpacked(path=path, entries=entries, bytes=size)

    async def pack(self, tenant_id: str, name: str, path: str, *, zipped: bool) -> AsyncIterator[bytes]:
        volume_id = self._registry.get(tenant_id, name).volume_id
        pieces = self._store.pack(tenant_id, volume_id, path, zipped=zipped)
        return await streams.first(self.archives.around(tenant_id, pieces))


def _cursor_of(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode("utf-8", "surrogateescape")).decode()


def _name_of(cursor: str) -> str:
    try:
        return base64.urlsafe_b64decode(cursor.encode("ascii")).decode("utf-8", "surrogateescape")
    except (ValueError, binascii.Error):
        raise InvalidValue("cursor must be the `next_cursor` of the page before") from None


def _file_entry(raw: dict[str, Any]) -> FileEntry:
    """Bytes that are no UTF-8 are shown as `\\xNN`."""
    shown = {key: _shown(raw[key]) for key in ("name", "target") if raw.get(key) is not None}
    return FileEntry(**{**raw, **shown, "modified_at": iso(float(raw["modified_at"]))})


def _shown(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


if TYPE_CHECKING:

    def _is_volumes(volumes: Volumes) -> api.Volumes:
        return volumes
