"""What the gateway sees of the pool: one object whose methods are the routes' verbs. Interfaces and values only.

No HTTP here: bodies are models of quilt_fn.model, failures are quilt_fn.errors. Every method takes the caller's tenant
first; another tenant's things are not found.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from quilt_fn.model.function import FunctionCreate, FunctionRecord, FunctionUpdate, PoolRecord
from quilt_fn.model.invocation import InvocationRecord
from quilt_fn.model.operation import OperationRecord
from quilt_fn.states import StartKind
from runtime.api import Call, Outcome, Progress

if TYPE_CHECKING:
    from pool.commands import Commands
    from pool.containers.archives import ContainerArchives
    from pool.containers.service import ContainerService
    from pool.images import ImageService
    from pool.network.api import NetworkService, Published
    from pool.terminals import Terminals
    from pool.volumes.api import Volumes


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the tenant of a key that was accepted."""

    tenant_id: str
    key_id: str


@dataclass(slots=True)
class Target:
    """A resolved, invocable version. What the gateway needs before it builds the Call, without I/O."""

    tenant_id: str
    function_id: str
    function_name: str
    version: int
    timeout_seconds: float
    public: bool
    wants_request: bool
    pool: Any
    """The pool's own; opaque to the gateway."""
    python: str | None = None
    """The minor version of the image's Python, such as 3.11; None where it is not known."""


@dataclass(slots=True)
class Served:
    """An invocation that ran: its outcome, and how it was served. For a stream, run_ms is set when that has ended."""

    outcome: Outcome
    invocation_id: str
    instance_id: str | None
    start: StartKind
    queue_ms: float
    start_ms: float
    run_ms: float
    extra: dict[str, Any] = field(default_factory=dict)


class Report(Protocol):
    """Given to the work of an operation, to say how far it is. No I/O; written at most a few times a second."""

    def __call__(self, progress_pct: float | None = None, message: str | None = None) -> None:
        """Percent done, and what it is doing; None leaves what was said before."""
        ...

    def warn(self, text: str) -> None:
        """Something that the caller should know though the work goes on; the first 100 are kept."""
        ...

    def item(self, index: int, **fields: Any) -> None:
        """Of a batch: merge `fields` into what is known of its item `index`, counted from 0."""
        ...


Work = Callable[[Report], Awaitable[dict[str, Any] | None]]


class Operations(Protocol):
    """Asynchronous work with a durable receipt. What was running when its node died is `failed` with NODE_RESTARTED."""

    async def begin(
        self,
        tenant_id: str,
        operation_type: str,
        target: tuple[str, str],
        work: Work,
        *,
        timeout_s: float,
        cancellable: bool = True,
        items: Sequence[Mapping[str, Any]] = (),
    ) -> OperationRecord:
        """Write the receipt (durable before this returns), then run `work` in a task of this node.

        `target` is (resource type, resource id); `items` are what a batch starts with. What `work` returns is the
        operation's `result`; a QuiltError that it raises becomes its `error` and `reason_code`. It is cancelled
        (asyncio) at `timeout_s`, by `cancel` and at shutdown, and must then undo what it had half made. Raises
        RegistryUnavailable, and QuotaExceeded beyond 500 unfinished of one tenant; nothing has begun then.
        """
        ...

    async def get(self, tenant_id: str, operation_id: str, wait_s: float = 0.0) -> OperationRecord:
        """With `wait_s`, not before it has ended or the time is over. Raises OperationNotFound."""
        ...

    async def list(
        self, tenant_id: str, status: str | None, limit: int, cursor: str | None
    ) -> tuple[builtins.list[OperationRecord], str | None]:
        """Newest first. What is begun meanwhile moves no cursor. Raises InvalidValue (no such status or cursor)."""
        ...

    async def cancel(self, tenant_id: str, operation_id: str) -> OperationRecord:
        """Ask it to end, and wait a while for that: its work undoes what it had half made first.

        Raises OperationNotFound, OperationEnded, and Conflict where it is not cancellable.
        """
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """`number` None: only this listener is told (it was `dropped`). `at` is epoch seconds."""

    number: int | None
    kind: str
    at: float
    data: Mapping[str, Any]


class Listener(Protocol):
    """One stream of events. Close it."""

    last_number: int
    """The newest event's number when it began."""

    async def next(self, timeout_s: float) -> Event | None:
        """The next event; None where none came in time."""
        ...

    @property
    def over(self) -> bool:
        """Nothing more will come: it fell too far behind, as its last event said."""
        ...

    def close(self) -> None:
        """Idempotent."""
        ...


class Events(Protocol):
    """What happens on this platform, for whoever listens: a bounded log with numbers that only grow."""

    def publish(self, tenant_id: str, kind: str, data: Mapping[str, Any]) -> None:
        """`kind`: OperationUpdate | container_update | function_update | pool_update | invocation | volume_update.

        `data` holds the ids that listeners filter by: operation_id, container_id, function_id. It is kept as it is: do
        not change it afterwards. No I/O; never raises.
        """
        ...

    def listened(self, tenant_id: str) -> bool:
        """Whether somebody listens: what is costly to say need not be said otherwise."""
        ...

    def listen(self, tenant_id: str, filters: Mapping[str, str], after: int | None = None) -> Listener:
        """Events from now on; with `after` those since that number first, and a `gap` where some are not kept.

        `filters` are fields of `data` with the values that they must have. Raises LimitReached.
        """
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered. `fingerprint` is that of its body; `secret`: the body stays in memory, and is empty
    where that has been lost.
    """

    status: int
    body: bytes
    content_type: str
    fingerprint: str
    secret: bool = False


class Replays(Protocol):
    """The answers of requests with an Idempotency-Key. `scope` is the method and path that the key was used with."""

    async def begin(self, tenant_id: str, scope: str, key: str) -> Answer | None:
        """The answer that the first request with this key got, waited for where it is still at work.

        None: the caller is the first, and must end with `keep` or `give_up`. Raises RegistryUnavailable, and Conflict
        where the first one is at work for too long.
        """
        ...

    async def keep(self, tenant_id: str, scope: str, key: str, answer: Answer) -> None: ...

    async def give_up(self, tenant_id: str, scope: str, key: str) -> None:
        """It failed: the next one with this key is the first again."""
        ...


class DiskRoom(Protocol):
    """The room on the disk of the state folder."""

    def check(self) -> None:
        """Before anything that takes room for good. Raises DiskFull."""
        ...


class Platform(Protocol):
    @property
    def commands(self) -> Commands:
        """Commands in containers: to the end, or as a stream."""
        ...

    @property
    def replays(self) -> Replays: ...

    @property
    def container_archives(self) -> ContainerArchives: ...

    @property
    def containers(self) -> ContainerService:
        """Containers of users: a part of its own, with its own verbs."""
        ...

    @property
    def operations(self) -> Operations: ...

    @property
    def events(self) -> Events: ...

    @property
    def terminals(self) -> Terminals: ...

    @property
    def volumes(self) -> Volumes: ...

    @property
    def disk(self) -> DiskRoom: ...

    @property
    def images(self) -> ImageService: ...

    @property
    def network(self) -> NetworkService: ...

    @property
    def services(self) -> Published: ...

    async def authenticate(self, key: str) -> Caller | None:
        """The caller of an API key; None where it is not one. Cached: no Redis on the hot path."""
        ...

    def authenticate_cached(self, key: str) -> Caller | None:
        """As `authenticate`, from the cache alone, synchronously: for the hot path. None says nothing about the key."""
        ...

    async def create(self, tenant_id: str, body: FunctionCreate) -> FunctionRecord: ...

    async def list(
        self, tenant_id: str, limit: int, cursor: str | None
    ) -> tuple[builtins.list[FunctionRecord], str | None]: ...

    async def get(self, tenant_id: str, function_id: str) -> FunctionRecord: ...

    async def by_name(self, tenant_id: str, name: str) -> FunctionRecord: ...

    async def update(self, tenant_id: str, function_id: str, body: FunctionUpdate) -> FunctionRecord: ...

    async def delete(self, tenant_id: str, function_id: str) -> None: ...

    async def deploy(
        self, tenant_id: str, function_id: str, progress: Callable[[Progress], None] | None = None
    ) -> FunctionRecord:
        """Build the newest version and make it current; returns when capacity is ready. The old one serves meanwhile.

        Raises BuildFailed; the old version then goes on being current.
        """
        ...

    async def pause(self, tenant_id: str, function_id: str) -> FunctionRecord: ...

    async def resume(self, tenant_id: str, function_id: str) -> FunctionRecord: ...

    def resolve(self, tenant_id: str | None, name: str) -> Target | None:
        """The current version of a function by name, synchronously, from memory.

        `tenant_id` None (no credential) finds only public functions. None where there is no such function; raises
        FunctionNotDeployed, FunctionPaused, FunctionBroken where its state refuses. While the first version is
        `deploying` the Target is there and `invoke` waits.
        """
        ...

    def resolve_id(self, tenant_id: str, function_id: str) -> Target | None:
        """As `resolve`, by id."""
        ...

    async def invoke(self, target: Target, call: Call) -> Served:
        """Run `call` on an instance of `target`: queue, start, run, record. Never raises for what the function did.

        Raises QueueFull, StartFailed, InvocationTimeout (details.limit = "queue": the deadline came before
        an instance). A caller that is cancelled while its call waits does not cancel the invocation: it goes on and is
        recorded. Cancelling while it runs ends the instance and is recorded as cancelled: a caller that can be
        cancelled (aiohttp's handlers are not, by default) has to shield.
        For a stream the instance is released when the stream has ended or was closed.
        """
        ...

    async def drop_template(self, tenant_id: str, function_id: str, *, snapshot: bool = False) -> bool: ...

    async def pool(self, tenant_id: str, function_id: str) -> PoolRecord: ...

    async def pool_stats(self, tenant_id: str) -> builtins.list[PoolRecord]: ...

    async def set_pool_target(
        self, tenant_id: str, function_id: str, min_instances: int, max_instances: int
    ) -> PoolRecord: ...

    async def invocations(
        self, tenant_id: str, function_id: str, status: str | None, limit: int, cursor: str | None
    ) -> tuple[builtins.list[InvocationRecord], str | None]: ...

    async def invocation(self, tenant_id: str, function_id: str, invocation_id: str) -> InvocationRecord: ...

    def logs(
        self, tenant_id: str, function_id: str, *, follow: bool, invocation_id: str | None, limit: int
    ) -> AsyncIterator[dict[str, Any]]:
        """Lines {t, stream, invocation_id, instance_id, text}, oldest first; with `follow` it goes on until closed."""
        ...

    async def put_bundle(self, tenant_id: str, body: AsyncIterator[bytes]) -> tuple[str, int, bool]: ...

    async def put_source(self, tenant_id: str, filename: str, text: str) -> str: ...

    async def keys(
        self, tenant_id: str, limit: int, cursor: str | None
    ) -> tuple[builtins.list[dict[str, Any]], str | None]:
        """A page of them without the keys themselves, newest first, and the next page's cursor."""
        ...

    async def create_key(self, tenant_id: str, name: str) -> dict[str, Any]:
        """{key_id, name, key, created_at}: the only time that `key` is seen; only its sha256 is kept."""
        ...

    async def delete_key(self, tenant_id: str, key_id: str) -> None: ...

    async def system(self) -> dict[str, Any]:
        """{version, node_id, started_at, uptime_s, features: {name: {available, reason}}, redis: {available,
        durable (null: not known), detail}}.
        """
        ...

    def metrics(self) -> bytes:
        """The Prometheus text exposition of this node."""
        ...
