"""Containers' records in Redis, and all of this node's in memory: writes go to Redis first, reads never do.

A state moves by compare-and-set from the table of quilt_fn.states, fenced by incarnation, as a version's does
(`pool.registry`). Not here: what a move means (`service`).
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping

from pool import keys_in_redis as keys
from pool import scripts
from pool.clock import iso
from pool.containers.entry import ContainerEntry, Kept
from pool.paging import newest_first
from pool.redis_link import RedisLink
from quilt_fn.errors import Conflict, ContainerNotFound, NameTaken
from quilt_fn.model.common import new_id
from quilt_fn.model.container import ContainerCreate
from quilt_fn.states import CONTAINER, ContainerState, check

HISTORY = 12


class ContainerRegistry:
    """`incarnation` is this node process's, from its lease. `on_change(entry)` is called after each write."""

    def __init__(self, link: RedisLink, wall: Callable[[], float]) -> None:
        self._link = link
        self._wall = wall
        self._by_id: dict[str, ContainerEntry] = {}
        self._by_name: dict[tuple[str, str], str] = {}
        self._tenants: set[str] = set()
        self.incarnation = 0
        self.on_change: builtins.list[Callable[[ContainerEntry], None]] = []

    # reading: memory alone

    def find(self, tenant_id: str, container_id: str) -> ContainerEntry | None:
        entry = self._by_id.get(container_id)
        return entry if entry is not None and entry.tenant_id == tenant_id else None

    def get(self, tenant_id: str, container_id: str) -> ContainerEntry:
        """Raises ContainerNotFound."""
        entry = self.find(tenant_id, container_id)
        if entry is None:
            raise ContainerNotFound(f"no container {container_id}", hint="`quilt containers list` shows yours")
        return entry

    def by_name(self, tenant_id: str, name: str) -> ContainerEntry:
        """Raises ContainerNotFound."""
        found = self._by_name.get((tenant_id, name))
        if found is None:
            raise ContainerNotFound(f"no container is named {name!r}", hint="`quilt containers list` shows yours")
        return self._by_id[found]

    def known(self, container_id: str) -> ContainerEntry | None:
        """Whosever it is."""
        return self._by_id.get(container_id)

    def all(self) -> builtins.list[ContainerEntry]:
        return builtins.list(self._by_id.values())

    def list(
        self, tenant_id: str, limit: int, cursor: str | None, state: str | None, labels: Mapping[str, str | None]
    ) -> tuple[builtins.list[ContainerEntry], str | None]:
        """Newest first. A label's value None asks only that it is there. Raises InvalidValue for what is no cursor."""
        found = [e for e in self._by_id.values() if e.tenant_id == tenant_id and _fits(e, state, labels)]
        return newest_first(found, place, limit, cursor)

    # writing: Redis, then memory

    async def create(self, tenant_id: str, spec: ContainerCreate) -> ContainerEntry:
        """A new record in the state `created`. Raises NameTaken, RegistryUnavailable."""
        if (held := self._by_name.get((tenant_id, spec.name))) is not None:
            raise _name_taken(spec.name, held)
        container_id, now = new_id("ctr"), iso(self._wall())
        expires_at = self._wall() + spec.ttl_seconds if spec.ttl_seconds is not None else None
        kept = Kept(spec=spec, expires_at=expires_at)
        if tenant_id not in self._tenants:
            await self._link.run(self._link.client.sadd(keys.container_tenants(), tenant_id))
            self._tenants.add(tenant_id)
        state = ContainerState.CREATED
        places = self._keys(tenant_id, container_id)

        async def undo() -> None:
            await self._link.script(scripts.DELETE_CONTAINER, places, [spec.name, container_id])

        async with self._link.undone_by(undo):
            found = await self._link.script(
                scripts.CREATE_CONTAINER, places,
                [spec.name, container_id, state, kept.model_dump_json(), now, str(self.incarnation)],
            )  # fmt: skip
        if found.decode() != container_id:
            raise _name_taken(spec.name, found.decode())
        entry = ContainerEntry(container_id, tenant_id, spec.name, state, kept, now, now)
        self._remember(entry)
        self._changed(entry)
        return entry

    async def move(self, entry: ContainerEntry, state: ContainerState | None) -> None:
        """Keep `entry.kept`, and the new state where there is one. Raises IllegalTransition, Conflict,
        RegistryUnavailable; memory is then as before, but for `kept`, and Redis is made what memory says.
        """
        froms = ""
        if state is not None:
            check(CONTAINER, entry.state, state, entry.history)
            froms = ",".join(old for old, news in CONTAINER.items() if state in news)
        now, before = iso(self._wall()), entry.state

        async def undo() -> None:
            await self._write(entry, before if state is not None else None, state or "", now)

        async with self._link.undone_by(undo):
            what, detail = await self._write(entry, state, froms, now)
        if what == b"gone":
            raise ContainerNotFound(f"no container {entry.container_id}")
        if what != b"ok":
            wanted = state or "what was asked"
            raise Conflict(
                f"container {entry.name!r} can't become {wanted}: {what.decode()} ({detail.decode()})",
                details={"state": detail.decode()},
            )
        if state is not None:
            entry.state = state
            entry.history = [*entry.history[-HISTORY:], f"{now} {state}"]
        entry.updated_at = now
        self._changed(entry)

    async def _write(
        self, entry: ContainerEntry, state: ContainerState | None, froms: str, now: str
    ) -> tuple[bytes, bytes]:
        what, detail = await self._link.script(
            scripts.MOVE_CONTAINER, [keys.container(entry.tenant_id, entry.container_id)],
            [state or "", froms, str(self.incarnation), entry.kept.model_dump_json(), now],
        )  # fmt: skip
        return what, detail

    async def rename(self, entry: ContainerEntry, new_name: str) -> None:
        """Raises NameTaken, RegistryUnavailable."""
        old_name = entry.name
        kept = entry.kept.model_copy(update={"spec": entry.spec.model_copy(update={"name": new_name})})

        async def undo() -> None:
            await self._write_name(entry, new_name, old_name, entry.kept)

        async with self._link.undone_by(undo):
            found = await self._write_name(entry, old_name, new_name, kept)
        if found.decode() != entry.container_id:
            raise _name_taken(new_name, found.decode())
        self._by_name.pop((entry.tenant_id, entry.name), None)
        entry.name, entry.kept = new_name, kept
        self._remember(entry)
        self._changed(entry)

    async def _write_name(self, entry: ContainerEntry, old: str, new: str, kept: Kept) -> bytes:
        places = [keys.container_names(entry.tenant_id), keys.container(entry.tenant_id, entry.container_id)]
        found: bytes = await self._link.script(
            scripts.RENAME_CONTAINER, places,
            [old, new, entry.container_id, kept.model_dump_json(), iso(self._wall())],
        )  # fmt: skip
        return found

    async def delete(self, entry: ContainerEntry) -> None:
        """Remove the record, and it from memory. Idempotent."""
        await self._link.script(
            scripts.DELETE_CONTAINER, self._keys(entry.tenant_id, entry.container_id), [entry.name, entry.container_id]
        )
        self._by_id.pop(entry.container_id, None)
        if self._by_name.get((entry.tenant_id, entry.name)) == entry.container_id:
            del self._by_name[entry.tenant_id, entry.name]
        entry.state = ContainerState.DELETED
        self._changed(entry)

    # at start

    async def load(self) -> None:
        """Everything from Redis into memory. Raises RegistryUnavailable."""
        self._by_id.clear()
        self._by_name.clear()
        client = self._link.client
        for tenant in await self._link.run(client.smembers(keys.container_tenants())):
            tenant_id = tenant.decode()
            self._tenants.add(tenant_id)
            for member in await self._link.run(client.smembers(keys.containers(tenant_id))):
                container_id = member.decode()
                stored = await self._link.run(client.hgetall(keys.container(tenant_id, container_id)))
                if stored:
                    self._remember(_from_redis(tenant_id, container_id, stored))

    def _keys(self, tenant_id: str, container_id: str) -> builtins.list[str]:
        return [keys.container_names(tenant_id), keys.containers(tenant_id), keys.container(tenant_id, container_id)]

    def _remember(self, entry: ContainerEntry) -> None:
        self._by_id[entry.container_id] = entry
        self._by_name[entry.tenant_id, entry.name] = entry.container_id

    def _changed(self, entry: ContainerEntry) -> None:
        entry.changed.set()
        entry.changed = type(entry.changed)()
        for callback in self.on_change:
            callback(entry)


def _from_redis(tenant_id: str, container_id: str, stored: Mapping[bytes, bytes]) -> ContainerEntry:
    text = {name.decode(): value.decode() for name, value in stored.items()}
    kept = Kept.model_validate_json(text["kept"])
    state = ContainerState(text["state"])
    return ContainerEntry(container_id, tenant_id, text["name"], state, kept, text["created_at"], text["updated_at"])


def _fits(entry: ContainerEntry, state: str | None, labels: Mapping[str, str | None]) -> bool:
    if state is not None and entry.state != state:
        return False
    own = entry.spec.labels
    return all(name in own and value in (None, own[name]) for name, value in labels.items())


def place(entry: ContainerEntry) -> str:
    """Where it stands in lists of containers, and of what each has one of (`pool.paging`)."""
    return f"{entry.created_at}~{entry.container_id}"


def _name_taken(name: str, container_id: str) -> NameTaken:
    return NameTaken(
        f"a container named {name!r} is there already",
        details={"container_id": container_id, "name": name},
        hint="Delete or rename it, or take another name.",
    )
