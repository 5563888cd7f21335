"""A FunctionRuntime in memory: builds and starts at once, runs handlers given as Python callables, fails where told to.

Not here: anything of sandboxes, templates or sockets; and no sleeping: what is slow is held by an event of the test's.

    runtime = FakeRuntime()
    runtime.handler = streams(b"a", b"b")       # or echo, answers(…), raises(…), dies, overtime, held(event)
    runtime.fail_next_starts(2, "no memory")    # the next two starts raise StartFailed
    runtime.fail_builds("boom")                 # every build raises BuildFailed until runtime.build_error = None
    runtime.hold_starts()                       # starts wait until release_starts()
    runtime.instances[0].die("killed")          # on_closed callbacks run, invoke answers INSTANCE_DIED
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from quilt_fn.errors import BuildFailed, BundleNotFound, FunctionFailed, QuiltError, StartFailed
from quilt_fn.states import StartKind
from runtime.api import Built, Call, Failure, FunctionRuntime, Instance, Outcome, Progress, VersionSpec, WayDown
from tests.fakes.containers import FakeContainers
from tests.fakes.images import FakeImages
from tests.fakes.network import FakeNetwork
from tests.fakes.volumes import FakeVolumeStore

Handler = Callable[["FakeInstance", Call], Outcome | Awaitable[Outcome]]


def echo(_instance: FakeInstance, call: Call) -> Outcome:
    """Answer the event as it came."""
    return Outcome(kind="json", body=call.body)


def answers(body: bytes = b"null", **fields: Any) -> Handler:
    """Always the same Outcome."""
    return lambda _instance, _call: Outcome(body=body, **fields)


def raises(message: str = "boom", type_name: str = "ValueError") -> Handler:
    """The handler raised: HANDLER_ERROR, and the instance may serve again."""

    def handler(_instance: FakeInstance, _call: Call) -> Outcome:
        failure = Failure("HANDLER_ERROR", type_name, message, f"Traceback …\n{type_name}: {message}")
        return Outcome(failure=failure, stderr=message.encode())

    return handler


def dies(instance: FakeInstance, _call: Call) -> Outcome:
    """The process went away in the middle of the call."""
    instance.die("the handler exited with 1")
    return Outcome(failure=Failure("INSTANCE_DIED", "InstanceDied", "the handler exited with 1"), exit_code=1)


def overtime(instance: FakeInstance, _call: Call) -> Outcome:
    """The deadline fired: the instance was ended."""
    instance.die("timeout")
    failure = Failure("INVOCATION_TIMEOUT", "InvocationTimeout", "over its time limit")
    return Outcome(failure=failure, timed_out=True)


def held(gate: asyncio.Event) -> Handler:
    """Echo, but only once `gate` is set: the way to have busy instances."""

    async def handler(_instance: FakeInstance, call: Call) -> Outcome:
        await gate.wait()
        return Outcome(kind="json", body=call.body)

    return handler


def streams(*chunks: bytes, failing: Failure | None = None) -> Handler:
    """Answer with a stream of `chunks`, at whose end it fails with `failing` where given."""

    def handler(instance: FakeInstance, _call: Call) -> Outcome:
        async def body() -> AsyncIterator[bytes]:
            try:
                for chunk in chunks:
                    yield chunk
                if failing is not None:
                    outcome.failure = failing
                    raise FunctionFailed(failing.message)
            except GeneratorExit:
                instance.die("stream abandoned")
                raise

        outcome = Outcome(kind="bytes", stream=body())
        return outcome

    return handler


class FakeInstance:
    """One copy: counts what it served, dies when told to."""

    __slots__ = (
        "_callbacks", "_reusable", "calls", "closed", "instance_id", "memory", "runtime", "spec", "start",
        "start_ms", "started_at", "wants_request",
    )  # fmt: skip

    def __init__(self, runtime: FakeRuntime, spec: VersionSpec, instance_id: str, start: StartKind) -> None:
        self.runtime = runtime
        self.spec = spec
        self.instance_id = instance_id
        self.start = start
        self.start_ms = runtime.start_ms
        self.started_at = runtime.clock()
        self.wants_request = runtime.wants_request
        self.memory: int | None = 10 << 20
        self.calls = 0
        self.closed: str | None = None
        self._reusable = True
        self._callbacks: list[Callable[[str], None]] = []

    @property
    def reusable(self) -> bool:
        return self._reusable

    async def invoke(self, call: Call) -> Outcome:
        if self.closed is not None:
            return Outcome(failure=Failure("INSTANCE_DIED", "InstanceDied", self.closed))
        self.calls += 1
        try:
            outcome = self.runtime.handler(self, call)
            return outcome if isinstance(outcome, Outcome) else await outcome
        except asyncio.CancelledError:
            self.die("its invocation was cancelled")
            raise

    def die(self, reason: str) -> None:
        """End now, as if the process had gone. The first reason stays."""
        self._reusable = False
        if self.closed is not None:
            return
        self.closed = reason
        self.runtime.live.pop(self.instance_id, None)
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(reason)

    async def close(self, reason: str) -> None:
        self.die(reason)

    def on_closed(self, callback: Callable[[str], None]) -> None:
        if self.closed is not None:
            callback(self.closed)
        else:
            self._callbacks.append(callback)

    def memory_bytes(self) -> int | None:
        return self.memory


class FakeRuntime:
    """See the file's head. `clock` gives epoch seconds; `starts`, `builds`, `forgotten`, `kept` say what was asked."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.volumes = FakeVolumeStore()
        self.images = FakeImages()
        self.clock = clock
        self.containers = FakeContainers()
        self.network = FakeNetwork()
        self.handler: Handler = echo
        self.wants_request = False
        self.start_ms = 3.0
        self.kind = StartKind.FORK
        self.built: dict[str, VersionSpec] = {}
        self.builds: list[str] = []
        self.starts: list[str] = []
        self.forgotten: list[str] = []
        self.kept: list[str] = []
        self.instances: list[FakeInstance] = []
        """All ever started, oldest first."""
        self.live: dict[str, FakeInstance] = {}
        self.bundles: set[tuple[str, str]] = set()
        self.check_bundles = False
        self.build_error: QuiltError | None = None
        self.build_output = ""
        self.closed = False
        self._failures: list[str] = []
        self._always: str | StartFailed | None = None
        self._start_gate: asyncio.Event | None = None
        self._build_gate: asyncio.Event | None = None
        self._ids = itertools.count(1)
        self._down: dict[str, tuple[WayDown, ...]] = {}

    # failures on demand

    def fail_next_starts(self, count: int, reason: str = "no memory") -> None:
        self._failures.extend([reason] * count)

    def fail_all_starts(self, reason: str | StartFailed | None) -> None:
        """Every start fails with `reason`, a text or the error itself; None ends that."""
        self._always = reason

    def fail_builds(self, message: str, stage: str = "import") -> None:
        details = {"stage": stage, "traceback": f"Traceback …\n{message}", "output": self.build_output}
        self.build_error = BuildFailed(message, details=details)

    def hold_starts(self) -> None:
        self._start_gate = asyncio.Event()

    def release_starts(self) -> None:
        gate, self._start_gate = self._start_gate, None
        if gate is not None:
            gate.set()

    def hold_builds(self) -> None:
        self._build_gate = asyncio.Event()

    def release_builds(self) -> None:
        gate, self._build_gate = self._build_gate, None
        if gate is not None:
            gate.set()

    # FunctionRuntime

    async def build(self, spec: VersionSpec, progress: Callable[[Progress], None]) -> Built:
        self.builds.append(spec.key)
        if self.check_bundles and (spec.tenant_id, spec.bundle_id) not in self.bundles:
            raise BundleNotFound(f"no bundle {spec.bundle_id}")
        progress(Progress("boot", "starting"))
        if self._build_gate is not None:
            await self._build_gate.wait()
        if self.build_error is not None:
            raise self.build_error
        progress(Progress("boot", "started", done=True, ms=1.0))
        self.built[spec.key] = spec
        return Built(
            layer_id="layer" if spec.requirements else None,
            ms={"boot": 1.0, "snapshot": 2.0},
            snapshot_bytes=4096,
            snapshot_taken_at="2026-01-01T00:00:00Z",
            unavailable=(),
            wants_request=self.wants_request,
            output=self.build_output,
        )

    async def start(self, spec: VersionSpec) -> FakeInstance:
        self.starts.append(spec.key)
        if self._start_gate is not None:
            await self._start_gate.wait()
        reason = self._failures.pop(0) if self._failures else self._always
        if reason is not None:
            raise reason if isinstance(reason, StartFailed) else StartFailed(reason)
        instance = FakeInstance(self, spec, f"ins_{next(self._ids):020x}", self.kind)
        self.instances.append(instance)
        self.live[instance.instance_id] = instance
        return instance

    def ways(self, spec: VersionSpec) -> list[StartKind]:
        down = {way.kind for way in self._down.get(spec.key, ())}
        return [kind for kind in (StartKind.FORK, StartKind.RESTORE, StartKind.BOOT) if kind not in down]

    def unavailable(self, spec: VersionSpec) -> tuple[WayDown, ...]:
        return self._down.get(spec.key, ())

    async def drop_template(self, spec: VersionSpec, *, snapshot: bool = False) -> bool:
        was_live = StartKind.FORK in self.ways(spec)
        self._down[spec.key] = (WayDown(StartKind.FORK, "the template was dropped"),)
        self.kind = StartKind.RESTORE
        return was_live

    async def forget(self, spec: VersionSpec) -> None:
        self.forgotten.append(spec.key)
        self.built.pop(spec.key, None)

    async def put_bundle(self, tenant_id: str, body: AsyncIterator[bytes]) -> tuple[str, int, bool]:
        content = b"".join([chunk async for chunk in body])
        return self._keep(tenant_id, content)

    async def put_source(self, tenant_id: str, filename: str, text: str) -> str:
        return self._keep(tenant_id, f"{filename}\0{text}".encode())[0]

    def _keep(self, tenant_id: str, content: bytes) -> tuple[str, int, bool]:
        bundle_id = hashlib.sha256(content).hexdigest()
        new = (tenant_id, bundle_id) not in self.bundles
        self.bundles.add((tenant_id, bundle_id))
        return bundle_id, len(content), new

    async def has_bundle(self, tenant_id: str, bundle_id: str) -> bool:
        return not self.check_bundles or (tenant_id, bundle_id) in self.bundles

    def features(self) -> dict[str, dict[str, Any]]:
        return {
            "criu": {"available": False, "reason": "a fake runtime"},
            "images": {"available": True, "images": ["host"], "python": "3.11", "reason": None},
        }

    async def keep_only(self, specs: list[VersionSpec]) -> list[str]:
        self.kept = [spec.key for spec in specs]
        for spec in specs:
            self.built[spec.key] = spec
        return []

    async def close(self) -> None:
        self.closed = True
        for instance in list(self.live.values()):
            instance.die("node closing")


if TYPE_CHECKING:
    _runtime: FunctionRuntime = FakeRuntime()
    _instance: Instance = FakeInstance(FakeRuntime(), VersionSpec("t", "f", "n", 1, "b", "h"), "i", StartKind.FORK)
