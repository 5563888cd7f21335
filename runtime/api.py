"""What the pool sees of one node's runtime: specs in, instances out. Interfaces and values only, no I/O.

The runtime builds versions (layer, boot, import, audit, snapshot), and starts instances of them by the fastest way
there is. It keeps no queue and takes no decision about how many: that is the pool's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from quilt_fn.states import StartKind
from runtime.containers.api import Attached, Containers
from runtime.images import Images
from runtime.network.api import Network
from runtime.volumes.api import VolumeStore


@dataclass(frozen=True, slots=True)
class VersionSpec:
    """Everything an immutable version is made from. `secrets` are not part of the snapshot key: they come at the
    fork.
    """

    tenant_id: str
    function_id: str
    function_name: str
    version: int
    bundle_id: str
    handler: str
    requirements: tuple[str, ...] = ()
    image: str = "host"
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    before_snapshot: tuple[str, ...] = ()
    after_restore: tuple[str, ...] = ()
    warmup_event: Any = None
    memory_limit_mb: int = 256
    cpu_limit_percent: int = 100
    pids_limit: int = 256
    network: Literal["egress", "none"] = "egress"
    result_limit_bytes: int = 32 << 20
    python: str | None = None
    attached: tuple[Attached, ...] = ()
    """Mounted in each instance, not in the template: import code and snapshot know nothing of them."""

    @property
    def key(self) -> str:
        """Names the version on this node: `<function_id>.v<version>`."""
        return f"{self.function_id}.v{self.version}"


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a build, for people who wait: stage is bundle | layer | boot | import | snapshot |
    after_restore.
    """

    stage: str
    text: str
    done: bool = False
    ms: float | None = None


@dataclass(frozen=True, slots=True)
class WayDown:
    """A way to start that is not to be had for this version on this node, and why."""

    kind: StartKind
    reason: str


@dataclass(frozen=True, slots=True)
class Built:
    """A version that is ready: a live template where it can fork, a snapshot where it can be dumped."""

    layer_id: str | None
    ms: Mapping[str, float]
    snapshot_bytes: int | None
    snapshot_taken_at: str | None
    unavailable: tuple[WayDown, ...]
    wants_request: bool
    output: str = ""
    """The end of what import, hooks and warm-up printed, stdout and stderr as they came; empty where what had been
    built before was taken.
    """


@dataclass(slots=True)
class Call:
    """One invocation on its way to an instance. `body` is the event as it came; it is not copied."""

    invocation_id: str
    kind: Literal["json", "text", "pickle", "none"]
    body: bytes
    deadline: float
    """Epoch seconds. The instance is ended at it."""
    attempt: int = 1
    environment: Mapping[str, str] | None = None
    request: Mapping[str, Any] | None = None
    """{method, path, query, headers: [[k, v]…], remote}; sent only to instances whose `wants_request` is true."""


@dataclass(slots=True)
class Failure:
    """Why an invocation failed. `code` is an error_code of quilt_fn.errors; `pickled` the exception for SDK calls."""

    code: str
    type: str
    message: str
    traceback: str | None = None
    pickled: bytes | None = None


@dataclass(slots=True)
class Outcome:
    """What an invocation came to. Either `failure` is set, or status, headers, kind and body (or stream) are.

    With `stream`, iterate it to its end or `aclose()` it; where the handler failed in the middle it raises
    quilt_fn.errors.FunctionFailed, and why stands in `failure` (and `timed_out`) by then. stdout and stderr are
    complete when the Outcome is there, for a stream when that has ended.
    """

    status: int = 200
    headers: list[list[str]] = field(default_factory=list)
    kind: str = "json"
    body: bytes = b""
    stream: AsyncIterator[bytes] | None = None
    failure: Failure | None = None
    timed_out: bool = False
    exit_code: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    truncated: bool = False


class Instance(Protocol):
    """One live copy of a version, serving one invocation at a time.

    `invoke` never raises for what the function did: that is in the Outcome. It raises SpawnerError or InternalError
    only for our own faults. After an Outcome (and its stream) is finished, `reusable` says whether it may serve again:
    false after a timeout, a crash, an out-of-memory kill or a protocol error, and the instance is then already being
    ended. On a dead instance `invoke` answers an Outcome with failure INSTANCE_DIED. Cancelling the task that awaits
    `invoke` ends the instance (it can't be known what it was doing). `close` is idempotent and never raises; the
    reason of the first call stays.
    """

    instance_id: str
    start: StartKind
    start_ms: float
    started_at: float
    wants_request: bool

    @property
    def reusable(self) -> bool: ...

    async def invoke(self, call: Call) -> Outcome: ...

    async def close(self, reason: str) -> None: ...

    def on_closed(self, callback: Callable[[str], None]) -> None:
        """Call `callback(reason)` once when the instance has gone, at once where it has already."""
        ...

    def memory_bytes(self) -> int | None:
        """What its cgroup says now; None where it can't be read. Never blocks for longer than a read of one small
        file.
        """
        ...


class FunctionRuntime(Protocol):
    """One node's runtime, for the pool. All methods may be called concurrently for different versions and the same."""

    @property
    def containers(self) -> Containers:
        """Containers of users, on the same node."""
        ...

    @property
    def volumes(self) -> VolumeStore: ...

    @property
    def images(self) -> Images: ...

    @property
    def network(self) -> Network: ...

    async def build(self, spec: VersionSpec, progress: Callable[[Progress], None]) -> Built:
        """Make `spec` startable. Idempotent: what is there already (layer, snapshot whose key matches) is used.

        Where there are after_restore hooks, one instance is started to try them.
        Raises BuildFailed (details: stage, traceback or log, output), PythonMismatch, BundleNotFound, SpawnerError.
        After a failure nothing of this build is left.
        """
        ...

    async def start(self, spec: VersionSpec) -> Instance:
        """A new instance by the first way that works: fork, restore, boot. Ready for INVOKE when it returns.

        Where a way failed, the next is tried, and the reason is in `unavailable(spec)`. Raises HookFailed (details:
        stage, traceback) where an after_restore hook failed, StartFailed when all ways did.
        """
        ...

    def ways(self, spec: VersionSpec) -> list[StartKind]:
        """The ways that a start would try now, fastest first. No I/O."""
        ...

    def unavailable(self, spec: VersionSpec) -> tuple[WayDown, ...]:
        """The ways that are not to be had, each with its reason. No I/O."""
        ...

    async def drop_template(self, spec: VersionSpec, *, snapshot: bool = False) -> bool:
        """End the live template (its instances go on); the next start is a restore. False where none was live.

        With `snapshot` the snapshot goes too, and the next start is a boot, which takes a new one.
        """
        ...

    async def forget(self, spec: VersionSpec) -> None:
        """End template, snapshot and unpacked bundle of a version that is gone. Idempotent."""
        ...

    async def put_bundle(self, tenant_id: str, body: AsyncIterator[bytes]) -> tuple[str, int, bool]:
        """Store an uploaded tar.gz, checked: (sha256, size in bytes, whether it is new). Raises BundleInvalid,
        PayloadTooLarge.
        """
        ...

    async def put_source(self, tenant_id: str, filename: str, text: str) -> str:
        """A bundle of one file: its sha256."""
        ...

    async def has_bundle(self, tenant_id: str, bundle_id: str) -> bool: ...

    def features(self) -> dict[str, dict[str, Any]]:
        """{name: {available: bool, reason: text|None, …}} for spawner, criu, cgroup, network, images."""
        ...

    async def keep_only(self, specs: list[VersionSpec]) -> list[str]:
        """At start: adopt the live templates of `specs`, end and delete every container, kit and snapshot of other
        versions.

        Returns the ids of what was ended.
        """
        ...

    async def close(self) -> None:
        """End all instances; live templates stay for the next node process to adopt."""
        ...
