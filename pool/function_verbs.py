"""The verbs of functions in `pool.api.Platform`: create to delete, deploy, invoke, and what is asked about them.

Not here: what `pool.platform` puts together, and the verbs of containers, volumes, images and networks, which are
objects of their own there.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from pool.api import Served, Target
from pool.api_keys import DEFAULT_TENANT
from pool.clock import iso
from pool.deploy import Deployer
from pool.functions import ASKED_PAUSED, FunctionEntry, checked_spec, function_record
from pool.invoking import Invoker
from pool.log_files import LogFiles
from pool.pools import Pools
from pool.records import Records
from pool.registry import Registry
from pool.shapes import pool_record
from pool.volumes.service import Volumes
from quilt_fn.errors import (
    BundleNotFound,
    FunctionBroken,
    FunctionNotDeployed,
    FunctionNotFound,
    FunctionPaused,
    InvalidValue,
    RegistryUnavailable,
)
from quilt_fn.model.function import FunctionCreate, FunctionRecord, FunctionUpdate, PoolRecord
from quilt_fn.model.invocation import InvocationRecord
from quilt_fn.states import FunctionState, InvocationStatus
from runtime.api import Call, FunctionRuntime, Progress


class FunctionVerbs:
    """Over parts that whoever extends this puts in their places before the first verb."""

    _registry: Registry
    _runtime: FunctionRuntime
    _deployer: Deployer
    _invoker: Invoker
    _pools: Pools
    _records: Records
    _logs: LogFiles
    _base_url: str
    _node_id: str
    volumes: Volumes

    async def create(self, tenant_id: str, body: FunctionCreate) -> FunctionRecord:
        fields = body.model_dump()
        name = fields.pop("name")
        checked_spec(fields)
        spec = checked_spec(await self._with_bundle(tenant_id, fields))
        with self.volumes.attaching(tenant_id, spec.volumes):
            return self._record(await self._registry.create(tenant_id, name, spec))

    async def update(self, tenant_id: str, function_id: str, body: FunctionUpdate) -> FunctionRecord:
        """A new version; where the function has been deployed, its build begins at once."""
        entry = self._registry.get(tenant_id, function_id)
        given = body.model_dump(exclude_unset=True)
        fields = entry.newest_version.spec.model_dump() | given
        if "source" in given and given["source"] is not None:
            fields["bundle_id"] = given.get("bundle_id")
        checked_spec(fields)
        spec = checked_spec(await self._with_bundle(tenant_id, fields))
        with self.volumes.attaching(tenant_id, spec.volumes):
            version = await self._registry.add_version(entry, spec)
        if (given.keys() & {"min_instances", "max_instances"}) and entry.target_min is not None:
            await self._registry.set_target(entry, None, None)
        if entry.current and entry.asked != ASKED_PAUSED:
            try:
                await self._deployer.begin(entry, version)
            except RegistryUnavailable as error:
                error.message = f"version {version.number} is kept, but its build could not begin: {error.message}"
                error.hint = "Deploy the function when Redis answers again; the version before it serves until then."
                raise
        return self._record(entry)

    async def _with_bundle(self, tenant_id: str, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields with `bundle_id` instead of `source`, and the bundle there."""
        source, bundle_id = fields.get("source"), fields.get("bundle_id")
        if source is not None:
            if bundle_id is not None:
                raise InvalidValue("give `bundle_id` or `source`, not both")
            module = fields["handler"].rpartition(":" if ":" in fields["handler"] else ".")[0]
            bundle_id = await self._runtime.put_source(tenant_id, module.replace(".", "/") + ".py", source)
        elif bundle_id is None:
            raise InvalidValue("a function needs its code: `bundle_id` (from POST /api/bundles) or `source`")
        elif not await self._runtime.has_bundle(tenant_id, bundle_id):
            raise BundleNotFound(f"no bundle {bundle_id}", hint="Upload it first: POST /api/bundles.")
        return fields | {"source": None, "bundle_id": bundle_id}

    async def list(
        self, tenant_id: str, limit: int, cursor: str | None
    ) -> tuple[builtins.list[FunctionRecord], str | None]:
        entries, after = self._registry.list(tenant_id, limit, cursor)
        return [self._record(entry) for entry in entries], after

    async def get(self, tenant_id: str, function_id: str) -> FunctionRecord:
        return self._record(self._registry.get(tenant_id, function_id))

    async def by_name(self, tenant_id: str, name: str) -> FunctionRecord:
        return self._record(self._registry.by_name(tenant_id, name))

    async def delete(self, tenant_id: str, function_id: str) -> None:
        await self._deployer.delete(self._registry.get(tenant_id, function_id))

    async def deploy(
        self, tenant_id: str, function_id: str, progress: Callable[[Progress], None] | None = None
    ) -> FunctionRecord:
        entry = self._registry.get(tenant_id, function_id)
        await self._deployer.deploy(entry, progress)
        return self._record(entry)

    async def pause(self, tenant_id: str, function_id: str) -> FunctionRecord:
        entry = self._registry.get(tenant_id, function_id)
        await self._deployer.pause(entry)
        return self._record(entry)

    async def resume(self, tenant_id: str, function_id: str) -> FunctionRecord:
        entry = self._registry.get(tenant_id, function_id)
        await self._deployer.resume(entry)
        return self._record(entry)

    async def drop_template(self, tenant_id: str, function_id: str, *, snapshot: bool = False) -> bool:
        entry = self._registry.get(tenant_id, function_id)
        return await self._runtime.drop_template(entry.version_spec(entry.shown_version), snapshot=snapshot)

    def _record(self, entry: FunctionEntry) -> FunctionRecord:
        spec = entry.version_spec(entry.shown_version)
        last = entry.stats.last_invoked_at or entry.stored_last_invoked_at
        return function_record(
            entry,
            self._base_url,
            self._node_id,
            self._runtime.ways(spec),
            self._runtime.unavailable(spec),
            iso(last) if last is not None else None,
        )

    def _functions_with_volume(self, tenant_id: str, volume: str) -> builtins.list[str]:
        return [
            f"function:{entry.name}" for entry in self._registry.all()
            if entry.tenant_id == tenant_id and volume in entry.volumes()
        ]  # fmt: skip

    # invocations

    def resolve(self, tenant_id: str | None, name: str) -> Target | None:
        if tenant_id is None:
            entry = self._registry.find_public(name, DEFAULT_TENANT)
        else:
            entry = self._registry.find_name(tenant_id, name)
        return None if entry is None else entry.target or _refuse(entry)

    def resolve_id(self, tenant_id: str, function_id: str) -> Target | None:
        entry = self._registry.find(tenant_id, function_id)
        return None if entry is None else entry.target or _refuse(entry)

    def invoke(self, target: Target, call: Call) -> Coroutine[Any, Any, Served]:
        """See pool.api. A Target of a version that has been replaced since goes to the one that serves now."""
        pool = target.pool
        if pool.draining or pool.ended is not None:
            now = self.resolve_id(target.tenant_id, target.function_id)
            if now is None:
                raise FunctionNotFound(f"function {target.function_name} has been deleted")
            target = now
        return self._invoker.invoke(target, call)

    async def invocations(
        self, tenant_id: str, function_id: str, status: str | None, limit: int, cursor: str | None
    ) -> tuple[builtins.list[InvocationRecord], str | None]:
        self._registry.get(tenant_id, function_id)
        if status is not None and status not in builtins.list(InvocationStatus):
            raise InvalidValue(f"status must be one of {', '.join(InvocationStatus)}, not {status!r}")
        found, after = await self._records.list(function_id, status, limit, cursor)
        return [InvocationRecord.model_validate(record) for record in found], after

    async def invocation(self, tenant_id: str, function_id: str, invocation_id: str) -> InvocationRecord:
        self._registry.get(tenant_id, function_id)
        return InvocationRecord.model_validate(await self._records.get(function_id, invocation_id))

    def logs(
        self, tenant_id: str, function_id: str, *, follow: bool, invocation_id: str | None, limit: int
    ) -> AsyncIterator[dict[str, Any]]:
        self._registry.get(tenant_id, function_id)
        return self._lines(function_id, follow, invocation_id, limit)

    async def _lines(
        self, function_id: str, follow: bool, invocation_id: str | None, limit: int
    ) -> AsyncIterator[dict[str, Any]]:
        await self._records.flush()
        async for line in self._logs.lines(function_id, follow=follow, invocation_id=invocation_id, limit=limit):
            yield line

    # pools

    async def pool(self, tenant_id: str, function_id: str) -> PoolRecord:
        entry = self._registry.get(tenant_id, function_id)
        return pool_record(function_id, self._pools.of(function_id) if entry else [])

    async def pool_stats(self, tenant_id: str) -> builtins.list[PoolRecord]:
        return [
            pool_record(entry.function_id, self._pools.of(entry.function_id))
            for entry in self._registry.all()
            if entry.tenant_id == tenant_id and entry.state is not FunctionState.DELETING
        ]

    async def set_pool_target(
        self, tenant_id: str, function_id: str, min_instances: int, max_instances: int
    ) -> PoolRecord:
        entry = self._registry.get(tenant_id, function_id)
        await self._registry.set_target(entry, min_instances, max_instances)
        self._pools.refresh(entry)
        return pool_record(function_id, self._pools.of(function_id))

    # bundles

    async def put_bundle(self, tenant_id: str, body: AsyncIterator[bytes]) -> tuple[str, int, bool]:
        return await self._runtime.put_bundle(tenant_id, body)

    async def put_source(self, tenant_id: str, filename: str, text: str) -> str:
        return await self._runtime.put_source(tenant_id, filename, text)


def _refuse(entry: FunctionEntry) -> Target | None:
    """None where the function is as good as gone; raises what its state answers an invocation with."""
    name, state = entry.name, entry.state
    details = {"state": state, "function_id": entry.function_id}
    if state is FunctionState.DELETING:
        return None
    if entry.asked == ASKED_PAUSED:
        raise FunctionPaused(
            f"function {name!r} is paused", details=details, hint=f"`quilt functions resume {name}` serves it again."
        )
    if state is FunctionState.ERROR:
        raise FunctionBroken(f"function {name!r} could not be deployed: {entry.newest_version.error}", details=details)
    raise FunctionNotDeployed(f"function {name!r} has not been deployed", details=details, hint="Deploy it first.")
