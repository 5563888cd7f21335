"""A Platform in memory: functions are Python callables from Call to Outcome, keys are `key-<tenant>`.

Not here: pools, queues, Redis. What a test wants to fail it sets on the object.
"""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakeredis

from pool.api import Caller, Platform, Served, Target
from pool.clock import Clock
from pool.commands import Commands
from pool.disk import DiskFloor
from pool.events import Events
from pool.images import ImageService
from pool.redis_link import RedisLink
from pool.replays import Replays
from pool.terminals import Terminals
from pool.volumes.registry import VolumeRegistry
from pool.volumes.service import Volumes
from quilt_fn.errors import ContainerNotFound, FunctionNotFound, InvocationNotFound, NameTaken, QuiltError
from quilt_fn.model.function import FunctionCreate, FunctionRecord, FunctionUpdate, PoolRecord
from quilt_fn.model.invocation import InvocationRecord
from quilt_fn.states import StartKind
from runtime.api import Call, Outcome, Progress
from runtime.containers.api import LiveContainer
from tests.fakes.images import FakeImages
from tests.fakes.volumes import FakeVolumeStore
from tests.fakes_gateway.operations import FakeOperations

Handler = Callable[[Call], Outcome | Awaitable[Outcome]]
KEY, OTHER_KEY = "quilt_sk_" + "1" * 32, "quilt_sk_" + "2" * 32
CALLERS = {KEY: Caller("t1", "k1"), OTHER_KEY: Caller("t2", "k2"), "own-key": Caller("t1", "k3")}


def echo(call: Call) -> Outcome:
    """The event as it came."""
    return Outcome(kind="json" if call.kind in ("json", "none") else call.kind, body=call.body)


class NoPlaces:
    """No container runs here."""

    def running(self, tenant_id: str, container_id: str) -> LiveContainer:
        raise ContainerNotFound(f"there is no container {container_id!r}")

    def environment(self, tenant_id: str, container_id: str) -> dict[str, str]:
        raise ContainerNotFound(f"there is no container {container_id!r}")

    def working_directory(self, tenant_id: str, container_id: str) -> str:
        raise ContainerNotFound(f"there is no container {container_id!r}")


class FakePlatform:
    """See the file's head. `calls` are the Calls that came, `closed_streams` counts streams that were closed."""

    def __init__(self) -> None:
        self.features: dict[str, dict[str, Any]] = {
            "spawner": {"available": True, "reason": None},
            "criu": {"available": False, "reason": "a fake"},
            "network": {"available": True, "reason": None},
            "disk": {"available": True, "reason": None},
        }
        self.disk = DiskFloor(Path("/"), 0)
        self.operations = FakeOperations()
        self.events = Events(Clock())
        self.replays = Replays(RedisLink(fakeredis.FakeAsyncRedis()), "node_1")
        redis = RedisLink(fakeredis.FakeAsyncRedis())
        self.volumes = Volumes(VolumeRegistry(redis), FakeVolumeStore(), self.operations, time.time)
        self.node_images = FakeImages()
        self.images = ImageService(self.node_images, self.operations)
        self.commands = Commands(NoPlaces())
        self.terminals = Terminals(NoPlaces())
        self.functions: dict[tuple[str, str], FunctionRecord] = {}
        self.handlers: dict[str, Handler] = {}
        self.targets: dict[tuple[str, str], Target] = {}
        self.calls: list[Call] = []
        self.bundles: dict[str, bytes] = {}
        self.refuse_resolve: QuiltError | None = None
        self.refuse_invoke: QuiltError | None = None
        self.fail_with: Exception | None = None
        """Raised by `create` and `deploy`."""
        self.creates = 0
        self.hold: asyncio.Event | None = None
        """Deploys wait for it where it is set."""
        self.deployed = asyncio.Event()
        self.line_gate = asyncio.Event()
        self.logs_closed = asyncio.Event()
        self.steps: list[Progress] = [Progress("boot", "booting"), Progress("boot", "booted", True, 12.5)]

    def add(
        self,
        name: str,
        handler: Handler = echo,
        *,
        tenant_id: str = "t1",
        public: bool = False,
        wants_request: bool = False,
    ) -> Target:
        """A deployed function."""
        target = Target(tenant_id, f"fn_{name}", name, 1, 30.0, public, wants_request, None, "3.11")
        self.targets[tenant_id, name] = target
        self.handlers[target.function_id] = handler
        return target

    async def authenticate(self, key: str) -> Caller | None:
        return CALLERS.get(key)

    def authenticate_cached(self, key: str) -> Caller | None:
        return None

    async def create(self, tenant_id: str, body: FunctionCreate) -> FunctionRecord:
        self.creates += 1
        if self.fail_with is not None:
            raise self.fail_with
        if (tenant_id, body.name) in self.functions:
            raise NameTaken(f"{body.name} is taken", details={"state": "pending"})
        record = FunctionRecord.model_validate(
            body.model_dump(exclude={"source", "secrets"})
            | {
                "function_id": f"fn_{body.name}", "id": f"fn_{body.name}", "tenant_id": tenant_id, "state": "pending",
                "version": 1, "current_version": None, "secrets": sorted(body.secrets), "url": f"/fn/{body.name}",
                "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
            }
        )  # fmt: skip
        self.functions[tenant_id, record.function_id] = record
        return record

    async def list(self, tenant_id: str, limit: int, cursor: str | None) -> tuple[list[FunctionRecord], str | None]:
        mine = [record for (tenant, _), record in self.functions.items() if tenant == tenant_id]
        start = int(cursor or 0)
        more = str(start + limit) if len(mine) > start + limit else None
        return mine[start : start + limit], more

    async def get(self, tenant_id: str, function_id: str) -> FunctionRecord:
        if (tenant_id, function_id) not in self.functions:
            raise FunctionNotFound(f"there is no function {function_id}")
        return self.functions[tenant_id, function_id]

    async def by_name(self, tenant_id: str, name: str) -> FunctionRecord:
        return await self.get(tenant_id, f"fn_{name}")

    async def update(self, tenant_id: str, function_id: str, body: FunctionUpdate) -> FunctionRecord:
        record = await self.get(tenant_id, function_id)
        changes = body.model_dump(exclude_unset=True)
        return record.model_copy(update=changes | {"version": record.version + 1})

    async def delete(self, tenant_id: str, function_id: str) -> None:
        await self.get(tenant_id, function_id)
        del self.functions[tenant_id, function_id]

    async def deploy(
        self, tenant_id: str, function_id: str, progress: Callable[[Progress], None] | None = None
    ) -> FunctionRecord:
        record = await self.get(tenant_id, function_id)
        for step in self.steps:
            if progress is not None:
                progress(step)
        if self.hold is not None:
            await self.hold.wait()
        if self.fail_with is not None:
            raise self.fail_with
        self.functions[tenant_id, function_id] = record.model_copy(update={"state": "active", "current_version": 1})
        self.deployed.set()
        return self.functions[tenant_id, function_id]

    async def pause(self, tenant_id: str, function_id: str) -> FunctionRecord:
        return (await self.get(tenant_id, function_id)).model_copy(update={"state": "paused"})

    async def resume(self, tenant_id: str, function_id: str) -> FunctionRecord:
        return (await self.get(tenant_id, function_id)).model_copy(update={"state": "active"})

    def resolve(self, tenant_id: str | None, name: str) -> Target | None:
        if self.refuse_resolve is not None:
            raise self.refuse_resolve
        if tenant_id is None:
            return next((t for (_, n), t in self.targets.items() if n == name and t.public), None)
        return self.targets.get((tenant_id, name))

    def resolve_id(self, tenant_id: str, function_id: str) -> Target | None:
        return self.resolve(tenant_id, function_id.removeprefix("fn_"))

    async def invoke(self, target: Target, call: Call) -> Served:
        self.calls.append(call)
        if self.refuse_invoke is not None:
            raise self.refuse_invoke
        outcome = self.handlers[target.function_id](call)
        if not isinstance(outcome, Outcome):
            outcome = await outcome
        return Served(outcome, call.invocation_id, "ins_1", StartKind.FORK, 0.5, 3.25, 1.0)

    async def drop_template(self, tenant_id: str, function_id: str, *, snapshot: bool = False) -> bool:
        await self.get(tenant_id, function_id)
        return True

    async def pool(self, tenant_id: str, function_id: str) -> PoolRecord:
        await self.get(tenant_id, function_id)
        return PoolRecord(
            function_id=function_id, warming_count=0, ready_count=1, busy_count=0, recycling_count=0,
            terminating_count=0, total_count=1,
        )  # fmt: skip

    async def pool_stats(self, tenant_id: str) -> list[PoolRecord]:
        return [
            await self.pool(tenant_id, function_id) for tenant, function_id in self.functions if tenant == tenant_id
        ]

    async def set_pool_target(
        self, tenant_id: str, function_id: str, min_instances: int, max_instances: int
    ) -> PoolRecord:
        return await self.pool(tenant_id, function_id)

    async def invocations(
        self, tenant_id: str, function_id: str, status: str | None, limit: int, cursor: str | None
    ) -> tuple[list[InvocationRecord], str | None]:
        await self.get(tenant_id, function_id)
        return [], None

    async def invocation(self, tenant_id: str, function_id: str, invocation_id: str) -> InvocationRecord:
        raise InvocationNotFound(f"there is no invocation {invocation_id}")

    async def logs(
        self, tenant_id: str, function_id: str, *, follow: bool, invocation_id: str | None, limit: int
    ) -> AsyncIterator[dict[str, Any]]:
        try:
            await self.get(tenant_id, function_id)
            yield {"t": 1.0, "stream": "stdout", "invocation_id": "inv_1", "instance_id": "ins_1", "text": "hello"}
            if follow:
                await self.line_gate.wait()
                yield {"t": 2.0, "stream": "stdout", "invocation_id": "inv_2", "instance_id": "ins_1", "text": "later"}
                await asyncio.Event().wait()
        finally:
            self.logs_closed.set()

    async def put_bundle(self, tenant_id: str, body: AsyncIterator[bytes]) -> tuple[str, int, bool]:
        content = b"".join([piece async for piece in body])
        bundle_id = hashlib.sha256(content).hexdigest()
        new = bundle_id not in self.bundles
        self.bundles[bundle_id] = content
        return bundle_id, len(content), new

    async def put_source(self, tenant_id: str, filename: str, text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    async def keys(
        self, tenant_id: str, limit: int, cursor: str | None
    ) -> tuple[builtins.list[dict[str, Any]], str | None]:
        return [{"key_id": "k1", "name": "first", "created_at": "2026-01-01T00:00:00Z"}], None

    async def create_key(self, tenant_id: str, name: str) -> dict[str, Any]:
        self.creates += 1
        return {"key_id": f"k{self.creates}", "name": name, "key": "quilt_sk_new", "created_at": "2026-01-01T00:00:00Z"}

    async def delete_key(self, tenant_id: str, key_id: str) -> None:
        return None

    async def system(self) -> dict[str, Any]:
        return {"version": "0", "node_id": "node_1", "features": self.features}

    def metrics(self) -> bytes:
        return b"quilt_up 1\n"


if TYPE_CHECKING:
    _platform: Platform = FakePlatform()
