"""Functions and versions in Redis, and all of this node's in memory: writes go to Redis first, reads never do.

Not here: building (`pool.deploy`) or serving. A write that Redis does not take raises RegistryUnavailable and
changes nothing here either. A version's state moves by compare-and-set from the table of
quilt_fn.states, fenced by incarnation.
"""

from __future__ import annotations

import builtins
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson
from redis.exceptions import ResponseError

from pool import keys_in_redis as keys
from pool import scripts
from pool.clock import iso
from pool.functions import ASKED_DELETING, ASKED_NOTHING, FunctionEntry, VersionEntry, check_instances
from pool.paging import newest_first
from pool.redis_link import RedisLink
from pool.stored_specs import StoredSpecs
from quilt_fn.errors import Conflict, FunctionNotFound, NameTaken, RegistryUnavailable
from quilt_fn.model.common import new_id
from quilt_fn.model.function import FunctionSpec
from quilt_fn.states import VERSION, VersionState
from runtime.containers.api import Attached

log = logging.getLogger(__name__)


class Registry:
    """`incarnation` is this node process's, from its lease."""

    def __init__(self, link: RedisLink, wall: Callable[[], float], specs: StoredSpecs) -> None:
        self._link = link
        self._specs = specs
        self._plain: builtins.list[tuple[str, int, FunctionSpec]] = []
        """Versions found with secrets in plain text, as they were kept before there was a seal."""
        self._wall = wall
        self._by_id: dict[str, FunctionEntry] = {}
        self._by_name: dict[tuple[str, str], FunctionEntry] = {}
        self.incarnation = 0
        self.attached_of: Callable[[str, Sequence[str]], tuple[Attached, ...]] = lambda _tenant_id, _volumes: ()
        self.on_change: Callable[[FunctionEntry], None] = lambda _entry: None
        """Told of a function when something of it was written, or when it is gone."""

    # reading: memory alone

    def find(self, tenant_id: str, function_id: str) -> FunctionEntry | None:
        entry = self._by_id.get(function_id)
        return entry if entry is not None and entry.tenant_id == tenant_id else None

    def find_name(self, tenant_id: str, name: str) -> FunctionEntry | None:
        return self._by_name.get((tenant_id, name))

    def find_public(self, name: str, first_tenant: str) -> FunctionEntry | None:
        """The public function of that name: the first tenant's, else the oldest."""
        entry = self._by_name.get((first_tenant, name))
        if entry is not None and entry.shown_version.spec.auth == "public":
            return entry
        found = [
            each
            for (_, each_name), each in self._by_name.items()
            if each_name == name and each.shown_version.spec.auth == "public"
        ]
        return min(found, key=lambda each: each.created_at, default=None)

    def get(self, tenant_id: str, function_id: str) -> FunctionEntry:
        """Raises FunctionNotFound, also for one that is being deleted."""
        entry = self.find(tenant_id, function_id)
        if entry is None or entry.asked == ASKED_DELETING:
            raise FunctionNotFound(f"no function {function_id}")
        return entry

    def by_name(self, tenant_id: str, name: str) -> FunctionEntry:
        """Raises FunctionNotFound."""
        entry = self.find_name(tenant_id, name)
        if entry is None:
            raise FunctionNotFound(f"no function is named {name!r}")
        return entry

    def list(self, tenant_id: str, limit: int, cursor: str | None) -> tuple[list[FunctionEntry], str | None]:
        """Newest first. Raises InvalidValue for what is no cursor."""
        entries = [
            each for each in self._by_id.values() if each.tenant_id == tenant_id and each.asked != ASKED_DELETING
        ]
        return newest_first(entries, lambda each: f"{each.created_at}~{each.function_id}", limit, cursor)

    def all(self) -> Iterator[FunctionEntry]:
        return iter(builtins.list(self._by_id.values()))

    # writing: Redis, then memory

    async def create(self, tenant_id: str, name: str, spec: FunctionSpec) -> FunctionEntry:
        """A new function with a version 1. Raises NameTaken, RegistryUnavailable.

        The function is written before its name is claimed, so that a name whose function is missing is free.
        """
        if (taken := self._by_name.get((tenant_id, name))) is not None:
            raise _name_taken(name, taken.function_id)
        function_id = new_id("fn")
        now = iso(self._wall())
        entry = FunctionEntry(function_id, tenant_id, name, ASKED_NOTHING, 0, 1, None, None, now, now)
        entry.versions[1] = VersionEntry(1, spec, VersionState.PENDING, "", {}, now, now)
        async with self._link.undone_by(lambda: self.delete(entry)):
            await self._link.run(self._link.client.sadd(keys.functions(), function_id))
            await self._add_version("create", function_id, tenant_id, name, 1, spec, now)
            holder = await self._claim(entry)
            if holder != function_id:
                await self.delete(entry)
                raise _name_taken(name, holder)
        self._remember(entry)
        self.on_change(entry)
        return entry

    async def _claim(self, entry: FunctionEntry) -> str:
        """Take the function's name; the id that holds it then."""
        instead_of, places = "", [keys.names(entry.tenant_id)]
        while True:
            found = await self._link.script(scripts.CLAIM_NAME, places, [entry.name, entry.function_id, instead_of])
            holder: str = found.decode()
            if holder == entry.function_id or await self._link.run(self._link.client.exists(keys.function(holder))):
                return holder
            instead_of = holder

    async def add_version(self, entry: FunctionEntry, spec: FunctionSpec) -> VersionEntry:
        """A new newest version. Raises FunctionNotFound, Conflict (another came between), RegistryUnavailable."""
        now = iso(self._wall())
        number = entry.newest + 1
        async with self._link.undone_by(lambda: self._take_back_version(entry, number)):
            await self._add_version("update", entry.function_id, entry.tenant_id, entry.name, number, spec, now)
        version = VersionEntry(number, spec, VersionState.PENDING, "", {}, now, now)
        entry.versions[number] = version
        entry.newest = number
        entry.updated_at = now
        self.on_change(entry)
        return version

    async def _take_back_version(self, entry: FunctionEntry, number: int) -> None:
        places = [keys.function(entry.function_id), keys.version(entry.function_id, number)]
        await self._link.script(scripts.TAKE_BACK_VERSION, places, [str(number)])

    async def _add_version(
        self, how: str, function_id: str, tenant_id: str, name: str, number: int, spec: FunctionSpec, now: str
    ) -> None:
        packed = await self._specs.pack(function_id, number, spec)
        answer = await self._link.script(
            scripts.ADD_VERSION,
            [keys.function(function_id), keys.version(function_id, number)],
            [how, str(number), packed, tenant_id, name, now, VersionState.PENDING],
        )
        if answer == b"gone":
            raise FunctionNotFound(f"no function {function_id}")
        if answer != b"ok":
            raise Conflict(f"another update of {name!r} came between; read it again", details={"version": number})

    async def move_version(
        self,
        entry: FunctionEntry,
        number: int,
        state: VersionState,
        *,
        error: str = "",
        built: dict[str, Any] | None = None,
    ) -> None:
        """Move a version's state; `ready` makes it current. Raises Conflict where it is not as we thought."""
        now = iso(self._wall())
        froms = ",".join(old for old, news in VERSION.items() if state in news)
        what, detail = await self._link.script(
            scripts.MOVE_VERSION,
            [keys.version(entry.function_id, number), keys.function(entry.function_id)],
            [
                state,
                froms,
                str(self.incarnation),
                error,
                orjson.dumps(built) if built else "",
                str(number if state is VersionState.READY else 0),
                now,
            ],
        )
        if what == b"gone":
            raise FunctionNotFound(f"no function {entry.function_id}")
        if what != b"ok":
            raise Conflict(
                f"version {number} of {entry.name!r} can't become {state}: {what.decode()} ({detail.decode()})",
                details={"state": detail.decode()},
            )
        version = entry.versions[number]
        version.state, version.error, version.updated_at = state, error, now
        if built:
            version.built = built
        entry.current = int(detail)
        entry.updated_at = now
        self.on_change(entry)

    async def set_asked(self, entry: FunctionEntry, asked: str) -> None:
        """Pause (`paused`), resume (``), or begin to delete (`deleting`; its name is free from then on)."""
        await self._set(entry, "asked", asked, entry.asked)
        entry.asked = asked
        self.on_change(entry)
        if asked == ASKED_DELETING:
            self._by_name.pop((entry.tenant_id, entry.name), None)
            try:
                await self._link.script(
                    scripts.FREE_NAME, [keys.names(entry.tenant_id)], [entry.name, entry.function_id]
                )
            except RegistryUnavailable as error:
                log.info("the name %r is freed with the rest of its function: %s", entry.name, error.message)

    async def set_target(self, entry: FunctionEntry, min_instances: int | None, max_instances: int | None) -> None:
        """Other limits than the version's; None and None for those again. Raises InvalidValue."""
        if min_instances is not None and max_instances is not None:
            check_instances(min_instances, max_instances)
        before = _target(entry.target_min, entry.target_max)
        await self._set(entry, "target", _target(min_instances, max_instances), before)
        entry.target_min, entry.target_max = min_instances, max_instances
        self.on_change(entry)

    async def _set(self, entry: FunctionEntry, field: str, value: str, before: str) -> None:
        now, places = iso(self._wall()), [keys.function(entry.function_id)]

        async def undo() -> None:
            await self._link.script(scripts.PUT_BACK, places, [field, value, before])

        async with self._link.undone_by(undo):
            there = await self._link.script(scripts.SET_FUNCTION, places, [now, field, value])
        if not there:
            raise FunctionNotFound(f"no function {entry.function_id}")
        entry.updated_at = now

    async def delete(self, entry: FunctionEntry) -> None:
        """Remove every key of a function, and it from memory. Idempotent."""
        function_id = entry.function_id
        gone = [keys.function(function_id), keys.record_order(function_id), keys.records(function_id)]
        gone += [keys.counts(function_id), *(keys.version(function_id, number) for number in entry.versions)]
        await self._link.script(scripts.FREE_NAME, [keys.names(entry.tenant_id)], [entry.name, function_id])
        await self._link.run(self._link.client.delete(*gone))
        await self._link.run(self._link.client.srem(keys.functions(), function_id))
        if self._by_id.pop(function_id, None) is not None:
            self.on_change(entry)

    async def drop_version(self, entry: FunctionEntry, number: int) -> None:
        """Forget a version that is neither current nor newest."""
        await self._link.run(self._link.client.delete(keys.version(entry.function_id, number)))
        entry.versions.pop(number, None)

    # at start

    async def load(self) -> None:
        """Everything from Redis into memory. Raises RegistryUnavailable."""
        self._by_id.clear()
        self._by_name.clear()
        for member in await self._link.run(self._link.client.smembers(keys.functions())):
            function_id = member.decode()
            entry = await self._load(function_id)
            if entry is None:
                await self._link.run(self._link.client.srem(keys.functions(), function_id))
            elif entry.asked != ASKED_DELETING and await self._claim(entry) != function_id:
                await self.delete(entry)  # a crash came between its creation and the claim of its name
            else:
                self._remember(entry)
        await self._seal_plain()

    async def _load(self, function_id: str) -> FunctionEntry | None:
        pipe = self._link.client.pipeline(transaction=False)
        pipe.hgetall(keys.function(function_id))
        pipe.hgetall(keys.counts(function_id))
        stored, counts = await self._link.run(pipe.execute())
        if b"newest" not in stored:
            return None
        target = stored[b"target"].decode().split()
        entry = FunctionEntry(
            function_id=function_id,
            tenant_id=stored[b"tenant_id"].decode(),
            name=stored[b"name"].decode(),
            asked=stored[b"asked"].decode(),
            current=int(stored[b"current"]),
            newest=int(stored[b"newest"]),
            target_min=int(target[0]) if target else None,
            target_max=int(target[1]) if target else None,
            created_at=stored[b"created_at"].decode(),
            updated_at=stored[b"updated_at"].decode(),
            stored_invocations=int(counts.get(b"invocations", 0)),
            stored_errors=int(counts.get(b"errors", 0)),
            stored_last_invoked_at=float(counts[b"last_invoked_at"]) if b"last_invoked_at" in counts else None,
        )
        pipe = self._link.client.pipeline(transaction=False)
        for number in range(1, entry.newest + 1):
            pipe.hgetall(keys.version(function_id, number))
        for number, version in enumerate(await self._link.run(pipe.execute()), start=1):
            if version:
                entry.versions[number] = await self._version(entry, number, version)
        return entry

    async def _version(self, entry: FunctionEntry, number: int, stored: dict[bytes, bytes]) -> VersionEntry:
        """One whose secrets can't be opened is failed here, and not in Redis: the right key may come back."""
        found = await self._specs.unpack(entry.function_id, number, stored[b"spec"])
        state, error = VersionState(stored[b"state"].decode()), stored[b"error"].decode()
        if found.plain:
            self._plain.append((entry.function_id, number, found.spec))
        if found.broken:
            log.error("version %d of %s: %s", number, entry.name, found.broken)
            state, error = VersionState.FAILED, found.broken
            if entry.current == number:
                entry.current = 0
        return VersionEntry(
            number=number,
            spec=found.spec,
            state=state,
            error=error,
            built=orjson.loads(stored[b"built"]) if stored[b"built"] else {},
            created_at=stored[b"created_at"].decode(),
            updated_at=stored[b"updated_at"].decode(),
        )

    async def _seal_plain(self) -> None:
        """Write again what was found in plain text, and have Redis write its file anew, in which it still stands."""
        if not self._plain:
            return
        for function_id, number, spec in self._plain:
            packed = await self._specs.pack(function_id, number, spec)
            await self._link.script(scripts.SET_SPEC, [keys.version(function_id, number)], [packed])
        log.info("sealed the secrets of %d versions that were kept in plain text", len(self._plain))
        self._plain.clear()
        try:
            await self._link.run(self._link.client.bgrewriteaof())
        except ResponseError as error:
            log.warning("Redis may keep the old, plain values in its append-only file for a while: %s", error)

    def _remember(self, entry: FunctionEntry) -> None:
        entry.attached_of = self.attached_of
        self._by_id[entry.function_id] = entry
        if entry.asked != ASKED_DELETING:
            self._by_name[entry.tenant_id, entry.name] = entry


def _target(min_instances: int | None, max_instances: int | None) -> str:
    return "" if min_instances is None or max_instances is None else f"{min_instances} {max_instances}"


def _name_taken(name: str, function_id: str) -> NameTaken:
    return NameTaken(
        f"a function named {name!r} is there already",
        details={"function_id": function_id, "name": name},
        hint="Update it with PUT, delete it, or take another name.",
    )
