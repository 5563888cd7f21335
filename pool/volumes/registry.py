"""Volumes in Redis, and all of this node's in memory: writes go to Redis first, reads never do.

Not here: their files, and who has them attached (`service`).
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import orjson

from pool import keys_in_redis as keys
from pool.paging import newest_first
from pool.redis_link import RedisLink
from pool.volumes import scripts
from quilt_fn.errors import NameTaken, VolumeNotFound
from quilt_fn.states import VOLUME, VolumeState, check


@dataclass(frozen=True, slots=True)
class Entry:
    """One volume as it is stored."""

    volume_id: str
    tenant_id: str
    name: str
    state: VolumeState
    labels: dict[str, str]
    size_limit_mb: int | None
    created_at: str


class VolumeRegistry:
    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._by_id: dict[str, Entry] = {}
        self._by_name: dict[tuple[str, str], str] = {}
        self.on_change: Callable[[Entry], None] = lambda _entry: None
        """Called after each write; one that is forgotten is not found any more then."""

    # reading: memory alone

    def get(self, tenant_id: str, name: str) -> Entry:
        """Raises VolumeNotFound, also for one that is not ready yet or being deleted."""
        volume_id = self._by_name.get((tenant_id, name))
        entry = self._by_id.get(volume_id) if volume_id is not None else None
        if entry is None or entry.state is not VolumeState.READY:
            raise VolumeNotFound(f"no volume is named {name!r}"[:200])
        return entry

    def list(
        self, tenant_id: str, limit: int, cursor: str | None, label: str | None
    ) -> tuple[builtins.list[Entry], str | None]:
        """Newest first. Raises InvalidValue for what is no cursor."""
        key, equals, value = (label or "").partition("=")
        found = [
            each for each in self._by_id.values()
            if each.tenant_id == tenant_id and each.state is VolumeState.READY
            and (not key or (key in each.labels and (not equals or each.labels[key] == value)))
        ]  # fmt: skip
        return newest_first(found, _place, limit, cursor)

    def holds(self, volume_id: str) -> bool:
        """Whether anything is left of it, in whatever state."""
        return volume_id in self._by_id

    def all(self) -> Iterator[Entry]:
        return iter(builtins.list(self._by_id.values()))

    # writing: Redis, then memory

    async def add(self, entry: Entry) -> None:
        """Raises NameTaken, RegistryUnavailable."""
        names, volumes = _places(entry)

        async def undo() -> None:  # a name without its volume is free
            await self._link.run(self._link.client.hdel(volumes, entry.volume_id))

        async with self._link.undone_by(undo):
            await self._link.run(self._link.client.sadd(keys.volume_tenants(), entry.tenant_id))
            holder = await self._link.script(
                scripts.ADD_VOLUME, [names, volumes], [entry.name, entry.volume_id, _packed(entry)]
            )
        if holder.decode() != entry.volume_id:
            raise _taken(entry.name)
        self._by_id[entry.volume_id] = entry
        self._by_name[entry.tenant_id, entry.name] = entry.volume_id
        self.on_change(entry)

    async def move(self, entry: Entry, state: VolumeState) -> Entry:
        """`deleting` frees the name. Raises VolumeNotFound, RegistryUnavailable."""
        check(VOLUME, entry.state, state, entry)
        return await self._set(entry, replace(entry, state=state))

    async def rename(self, entry: Entry, name: str) -> Entry:
        """Raises NameTaken, VolumeNotFound, RegistryUnavailable."""
        return await self._set(entry, replace(entry, name=name))

    async def _set(self, old: Entry, new: Entry) -> Entry:
        name = "" if new.state is VolumeState.DELETING else new.name
        places = _places(old)

        async def undo() -> None:
            await self._link.script(scripts.SET_VOLUME, places, [old.volume_id, _packed(old), name, old.name])

        async with self._link.undone_by(undo):
            answer = await self._link.script(scripts.SET_VOLUME, places, [old.volume_id, _packed(new), old.name, name])
        if answer == b"gone":
            raise VolumeNotFound(f"no volume is named {old.name!r}")
        if answer != b"ok":
            raise _taken(new.name)
        self._by_id[old.volume_id] = new
        if name != old.name:
            self._by_name.pop((old.tenant_id, old.name), None)
        if name:
            self._by_name[old.tenant_id, name] = old.volume_id
        self.on_change(new)
        return new

    async def forget(self, entry: Entry) -> None:
        """Its files are gone: remove what is left of it. Idempotent."""
        names, volumes = _places(entry)
        await self._link.run(self._link.client.hdel(volumes, entry.volume_id))
        self._by_id.pop(entry.volume_id, None)
        if self._by_name.get((entry.tenant_id, entry.name)) == entry.volume_id:
            del self._by_name[entry.tenant_id, entry.name]
            await self._link.run(self._link.client.hdel(names, entry.name))
        self.on_change(entry)

    async def load(self) -> None:
        """Everything from Redis into memory. Raises RegistryUnavailable."""
        self._by_id.clear()
        self._by_name.clear()
        for member in await self._link.run(self._link.client.smembers(keys.volume_tenants())):
            tenant_id = member.decode()
            for packed in (await self._link.run(self._link.client.hgetall(keys.volumes(tenant_id)))).values():
                raw = orjson.loads(packed)
                entry = Entry(**{**raw, "state": VolumeState(raw["state"])})
                self._by_id[entry.volume_id] = entry
                if entry.state is not VolumeState.DELETING:
                    self._by_name[tenant_id, entry.name] = entry.volume_id


def _place(entry: Entry) -> str:
    return f"{entry.created_at}~{entry.volume_id}"


def _places(entry: Entry) -> tuple[str, str]:
    return keys.volume_names(entry.tenant_id), keys.volumes(entry.tenant_id)


def _packed(entry: Entry) -> bytes:
    return orjson.dumps(asdict(entry))


def _taken(name: str) -> NameTaken:
    return NameTaken(
        f"a volume named {name!r} is there already",
        details={"name": name},
        hint="Use it, delete it, or take another name.",
    )
