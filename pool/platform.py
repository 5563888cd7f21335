"""`pool.api.Platform`: puts the pool's parts together and turns each verb into calls to them.

Not here: HTTP, and any work of its own. The runtime is the caller's: `close` ends instances, but not the runtime.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from pool import api, tasks
from pool.announcer import Announcer, operation_update
from pool.api import Caller, Served, Target
from pool.api_keys import DEFAULT_TENANT, ApiKeys
from pool.clock import Clock, iso
from pool.commands import Commands
from pool.containers.archives import ContainerArchives
from pool.containers.registry import ContainerRegistry
from pool.containers.service import ContainerService
from pool.deploy import Deployer
from pool.disk import DiskFloor
from pool.events import Events
from pool.executor import RuntimeExecutor
from pool.functions import ASKED_PAUSED, FunctionEntry, checked_spec, function_record
from pool.images import ImageService
from pool.invoking import Invoker
from pool.leases import Lease
from pool.log_files import LogFiles
from pool.metrics import Metrics
from pool.network.directory import ContainerDirectory
from pool.network.published import PublishedServices
from pool.network.service import Networks
from pool.operations import Operations
from pool.pools import Pools
from pool.quotas import Quotas, TenantQuotas
from pool.reconciler import Reconciler
from pool.records import Records
from pool.redis_link import Client, RedisLink, connect
from pool.registry import Registry
from pool.replays import Replays
from pool.sealing import Sealer
from pool.shapes import pool_record
from pool.stats import NodeStats
from pool.stored_specs import StoredSpecs
from pool.terminals import Terminals
from pool.volumes.registry import VolumeRegistry
from pool.volumes.service import Volumes
from quilt_fn.errors import (
    BundleNotFound,
    FunctionBroken,
    FunctionNotDeployed,
    FunctionNotFound,
    FunctionPaused,
    InvalidValue,
    RegistryUnavailable,
    Unavailable,
)
from quilt_fn.model.function import FunctionCreate, FunctionRecord, FunctionUpdate, PoolRecord
from quilt_fn.model.invocation import InvocationRecord
from quilt_fn.settings import Settings
from quilt_fn.states import FunctionState, InvocationStatus
from runtime.api import Call, FunctionRuntime, Progress
from runtime.doctor.redis_durability import judge

log = logging.getLogger(__name__)

REDIS_START_WAIT_S = 30.0
FLUSH_WAIT_S = 5.0


class Platform:
    """`redis` and `clock` stand in for the real ones in tests."""

    def __init__(
        self,
        settings: Settings,
        redis_url: str,
        runtime: FunctionRuntime,
        node_id: str,
        *,
        redis: Client | None = None,
        clock: Clock | None = None,
        bootstrap_key: str | None = None,
    ) -> None:
        self._settings = settings
        self._node_id = node_id
        self._runtime = runtime
        self._bootstrap_key = os.environ.get("QUILT_BOOTSTRAP_KEY", "") if bootstrap_key is None else bootstrap_key
        self._clock = clock = clock or Clock()
        self._started_at = clock.wall()
        self._stats = NodeStats()
        self._link = RedisLink(redis if redis is not None else connect(redis_url))
        self._lease = Lease(self._link, node_id, clock.now)
        self._keys = ApiKeys(self._link)
        self._registry = Registry(self._link, clock.wall, StoredSpecs(Sealer(settings.node_dir / "secrets.key")))
        self._logs = LogFiles(settings.node_dir / "logs", settings.log_file_mb)
        self._records = Records(
            self._link, self._logs, node_id, clock, self._stats,
            per_function=settings.records_per_function, days=settings.records_days,
        )  # fmt: skip
        self._executor = RuntimeExecutor(runtime, clock, self._stats)
        self._pools = Pools(self._executor, clock)
        self._invoker = Invoker(self._records, self._stats, clock)
        self._deployer = Deployer(self._registry, runtime, self._pools, self._records, self._logs, clock)
        self._reconciler = Reconciler(self._link, self._registry, runtime, self._pools, self._deployer, clock)
        self._container_registry = ContainerRegistry(self._link, clock.wall)
        self.containers = ContainerService(
            self._container_registry, runtime.containers, settings.node_dir / "containers", clock
        )
        self._directory = ContainerDirectory(self._container_registry, runtime.containers)
        self.network = Networks(self._container_registry, self._directory, runtime.network)
        self.services = PublishedServices(self._link, self._container_registry, self._directory, clock)
        self.commands = Commands(self.containers)
        self.terminals = Terminals(self.containers)
        self.disk = DiskFloor(Path(settings.state_dir), settings.disk_reserve_mb)
        self._metrics = Metrics(
            self._stats, self._registry, self._pools, self._link, lambda: int(not self._lease.lost), self.disk
        )
        self.events = Events(clock)
        self.replays = Replays(self._link, node_id)
        self.operations = Operations(
            self._link, node_id, clock, per_tenant=settings.operations_per_tenant, days=settings.operations_days,
            on_change=partial(operation_update, self.events),
        )  # fmt: skip
        self.images = ImageService(runtime.images, self.operations)
        self._volume_registry = VolumeRegistry(self._link)
        self._announcer = Announcer(self.events, self._registry, self._volume_registry, self._pools)
        self._registry.on_change = self._announcer.function
        self._container_registry.on_change.append(self._announcer.container)
        self._volume_registry.on_change = self._announcer.volume
        self._records.on_ended = self._announcer.invocation
        self.volumes = Volumes(self._volume_registry, runtime.volumes, self.operations, clock.wall)
        quotas = TenantQuotas(Quotas.of(settings), self._container_memory, self._volume_sizes)
        self.containers.quota, self.volumes.quota = quotas.container, quotas.volume
        self.containers.attaching, self.containers.attachments = self.volumes.attaching, self.volumes.attached
        self.volumes.add_users(self.containers.users_of_volume)
        self._registry.attached_of = self.volumes.attached
        self.container_archives = ContainerArchives(
            self.containers, runtime.containers, self.operations, self.volumes.archives
        )
        self.volumes.add_users(self._functions_with_volume)
        self._durable: tuple[bool | None, str] = (None, "not asked yet")
        self._tasks: builtins.list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take the lease, load everything, adopt what is there. Raises RegistryUnavailable where Redis stays away."""
        await self._link.wait(REDIS_START_WAIT_S)
        incarnation = await self._lease.take()
        self._registry.incarnation = self._container_registry.incarnation = self.events.incarnation = (
            self.replays.incarnation
        ) = incarnation
        self._durable = await self._durability()
        if self._durable[0] is False:
            log.warning("this Redis may forget what was answered as done: %s", self._durable[1])
        await self._keys.load()
        if self._bootstrap_key:
            await self._keys.insert(self._bootstrap_key, DEFAULT_TENANT, "bootstrap")
        await self.volumes.start()
        await self._reconciler.restore()
        await self.operations.start(self._registry.incarnation)
        await self.containers.restore()
        await self.services.load()
        await self._runtime.network.open(self._directory)
        work = {
            "lease": self._lease.keep(),
            "records": self._records.run(),
            "reconciler": self._reconciler.run(),
            "containers": self.containers.run(),
            "services": self.services.run(),
            "announcer": self._announcer.look(),
        }
        self._tasks = [_owned(name, coroutine) for name, coroutine in work.items()]

    async def close(self) -> None:
        """Give running invocations `shutdown_seconds`, end all instances, push the last records, drop the lease."""
        await self.operations.close()
        await self._deployer.close()
        await self.terminals.close()
        self.commands.close()
        await self.containers.close()
        await tasks.end(self._tasks)
        closing = Unavailable("this node is shutting down", retry_after=1)
        await self._pools.close(self._settings.shutdown_seconds, closing)
        await self._invoker.close()
        await self._executor.close()
        try:
            async with asyncio.timeout(FLUSH_WAIT_S):
                await self._records.flush()
                await self._lease.drop()
        except (RegistryUnavailable, TimeoutError) as error:
            log.warning("Redis is away at the end; %d records are lost: %s", self._records.waiting, error)
        self._logs.close()
        await self._link.close()

    async def _durability(self) -> tuple[bool | None, str]:
        """As runtime.doctor.redis_durability.judge."""
        try:
            found = await self._link.run(self._link.client.config_get("append*"))
        except ResponseError:
            return judge(None)
        return judge({_text(name): _text(value) for name, value in found.items()})

    def _container_memory(self, tenant_id: str) -> dict[str, int]:
        return {
            entry.container_id: entry.spec.memory_limit_mb
            for entry in self._container_registry.all()
            if entry.tenant_id == tenant_id
        }

    def _volume_sizes(self, tenant_id: str) -> builtins.list[int | None]:
        return [entry.size_limit_mb for entry in self._volume_registry.all() if entry.tenant_id == tenant_id]

    # keys

    def authenticate_cached(self, key: str) -> Caller | None:
        return self._keys.cached(key)

    async def authenticate(self, key: str) -> Caller | None:
        return await self._keys.authenticate(key)

    async def keys(
        self, tenant_id: str, limit: int, cursor: str | None
    ) -> tuple[builtins.list[dict[str, Any]], str | None]:
        return self._keys.list(tenant_id, limit, cursor)

    async def create_key(self, tenant_id: str, name: str) -> dict[str, Any]:
        return await self._keys.create(tenant_id, name)

    async def delete_key(self, tenant_id: str, key_id: str) -> None:
        await self._keys.delete(tenant_id, key_id)

    # functions

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
            await self._deployer.begin(entry, version)
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
            self._settings.base_url,
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

    # bundles, system

    async def put_bundle(self, tenant_id: str, body: AsyncIterator[bytes]) -> tuple[str, int, bool]:
        return await self._runtime.put_bundle(tenant_id, body)

    async def put_source(self, tenant_id: str, filename: str, text: str) -> str:
        return await self._runtime.put_source(tenant_id, filename, text)

    async def system(self) -> dict[str, Any]:
        full = self.disk.reason()
        return {
            "version": package_version("quilt-fn"),
            "node_id": self._node_id,
            "started_at": iso(self._started_at),
            "uptime_s": round(self._clock.wall() - self._started_at, 3),
            "features": {**self._runtime.features(), "disk": {"available": full is None, "reason": full}},
            "redis": {"available": self._link.up, "durable": self._durable[0], "detail": self._durable[1]},
        }

    def metrics(self) -> bytes:
        return self._metrics.text()


def _text(raw: str | bytes) -> str:
    return raw.decode() if isinstance(raw, bytes) else raw


def _refuse(entry: FunctionEntry) -> Target | None:
    """None where the function is as good as gone; raises what its state answers an invocation with."""
    name, state = entry.name, entry.state
    details = {"state": state, "function_id": entry.function_id}
    if state is FunctionState.DELETING:
        return None
    if entry.asked == ASKED_PAUSED:
        raise FunctionPaused(f"function {name!r} is paused", details=details, hint="Resume it.")
    if state is FunctionState.ERROR:
        raise FunctionBroken(f"function {name!r} could not be deployed: {entry.newest_version.error}", details=details)
    raise FunctionNotDeployed(f"function {name!r} has not been deployed", details=details, hint="Deploy it first.")


def _owned(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    async def guarded() -> None:
        try:
            await work
        except Exception:
            log.exception("%s ended", name)
            raise

    return asyncio.get_running_loop().create_task(guarded(), name=name)


if TYPE_CHECKING:

    def _is_a_platform(platform: Platform) -> api.Platform:
        return platform
