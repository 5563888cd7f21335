"""`pool.api.Platform`: puts the pool's parts together, starts them and ends them.

Not here: HTTP, any work of its own, and the verbs of functions (`pool.function_verbs`). The runtime is the
caller's: `close` ends instances, but not the runtime.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import os
from collections.abc import Coroutine
from functools import partial
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from pool import api, tasks
from pool.announcer import Announcer, operation_update
from pool.api import Caller
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
from pool.function_verbs import FunctionVerbs
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
from pool.stats import NodeStats
from pool.stored_specs import StoredSpecs
from pool.terminals import Terminals
from pool.volumes.registry import VolumeRegistry
from pool.volumes.service import Volumes
from quilt_fn.errors import (
    RegistryUnavailable,
    Unavailable,
)
from quilt_fn.settings import Settings
from runtime.api import FunctionRuntime
from runtime.doctor.redis_durability import judge

log = logging.getLogger(__name__)

REDIS_START_WAIT_S = 30.0
FLUSH_WAIT_S = 5.0


class Platform(FunctionVerbs):
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
        self._base_url = settings.base_url
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
            "volumes": self.volumes.run(),
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

    # system

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
