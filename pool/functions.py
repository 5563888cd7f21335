"""Functions and versions as this process holds them in memory, and what is derived from them: state, record, spec.

Not here: Redis (`pool.registry`). Pure values and functions; the state of a function is never stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from pool.api import Target
from pool.slots import Limits
from pool.stats import FunctionStats
from quilt_fn.errors import InvalidValue
from quilt_fn.model.function import FunctionRecord, FunctionSpec, SnapshotInfo, StartPath
from quilt_fn.model.validation import from_validation
from quilt_fn.states import FunctionState, StartKind, VersionState
from runtime.api import VersionSpec, WayDown
from runtime.containers.api import Attached

ASKED_NOTHING, ASKED_PAUSED, ASKED_DELETING = "", "paused", "deleting"


@dataclass(slots=True)
class VersionEntry:
    """One version. `built` is what the runtime made of it, as JSON."""

    number: int
    spec: FunctionSpec
    state: VersionState
    error: str
    built: dict[str, Any]
    created_at: str
    updated_at: str
    forgotten: bool = False
    """The runtime has let go of its template and snapshot (in this process's time; `forget` may be repeated)."""


@dataclass(slots=True)
class FunctionEntry:
    """One function with all of its versions."""

    function_id: str
    tenant_id: str
    name: str
    asked: str
    current: int
    """0 where no version has been ready yet."""
    newest: int
    target_min: int | None
    target_max: int | None
    created_at: str
    updated_at: str
    versions: dict[int, VersionEntry] = field(default_factory=dict)
    attached_of: Callable[[str, Sequence[str]], tuple[Attached, ...]] = field(
        default=lambda _tenant_id, _volumes: (), compare=False
    )
    """Resolves the volumes of a spec; set by the registry."""
    stats: FunctionStats = field(default_factory=FunctionStats)
    stored_invocations: int = 0
    stored_errors: int = 0
    stored_last_invoked_at: float | None = None
    target: Target | None = None
    """What `resolve` answers; None where the state refuses an invocation."""

    @property
    def newest_version(self) -> VersionEntry:
        return self.versions[self.newest]

    @property
    def current_version(self) -> VersionEntry | None:
        return self.versions.get(self.current)

    @property
    def shown_version(self) -> VersionEntry:
        """The current version; where there is none yet, the newest."""
        return self.versions.get(self.current) or self.versions[self.newest]

    @property
    def state(self) -> FunctionState:
        return derive_function_state(
            self.asked, self.current, self.newest_version.state, [each.state for each in self.versions.values()]
        )

    def limits(self, version: VersionEntry) -> Limits:
        """A version's limits; the function's pool target wins over its min and max."""
        spec = version.spec
        growth_mb = spec.recycle_memory_growth_mb
        return Limits(
            min=spec.min_instances if self.target_min is None else self.target_min,
            max=spec.max_instances if self.target_max is None else self.target_max,
            buffer=spec.buffer_instances,
            idle_timeout_s=spec.idle_timeout_seconds,
            max_queue=spec.max_queue,
            recycle_after_invocations=spec.recycle_after_invocations,
            recycle_after_s=spec.recycle_after_seconds,
            recycle_memory_growth_bytes=None if growth_mb is None else growth_mb << 20,
            one_shot=spec.cleanup_on_exit,
        )

    def version_spec(self, version: VersionEntry) -> VersionSpec:
        """What the runtime is given."""
        spec = version.spec
        return VersionSpec(
            tenant_id=self.tenant_id,
            function_id=self.function_id,
            function_name=self.name,
            version=version.number,
            bundle_id=spec.bundle_id or "",
            handler=spec.handler,
            requirements=tuple(spec.requirements),
            image=spec.image,
            environment=spec.environment,
            secrets=spec.secrets,
            before_snapshot=tuple(spec.hooks.before_snapshot),
            after_restore=tuple(spec.hooks.after_restore),
            warmup_event=spec.warmup_event,
            memory_limit_mb=spec.memory_limit_mb,
            cpu_limit_percent=spec.cpu_limit_percent,
            pids_limit=spec.pids_limit,
            network=spec.network,
            result_limit_bytes=spec.result_limit_mb << 20,
            python=spec.python,
            attached=self.attached_of(self.tenant_id, spec.volumes) if self._holds_volumes(version) else (),
        )

    def volumes(self) -> set[str]:
        """The names of the volumes that are attached to it: of its current and its newest version."""
        held = [version for version in self.versions.values() if self._holds_volumes(version)]
        return {each.split(":", 1)[0] for version in held for each in version.spec.volumes}

    def _holds_volumes(self, version: VersionEntry) -> bool:
        return version.number in (self.current, self.newest)


def derive_function_state(
    asked: str, current: int, newest_state: VersionState, states: Iterable[VersionState]
) -> FunctionState:
    """A function's state from what was asked of it and from its versions."""
    if asked == ASKED_DELETING:
        return FunctionState.DELETING
    if VersionState.BUILDING in states:
        return FunctionState.DEPLOYING
    if asked == ASKED_PAUSED:
        return FunctionState.PAUSED
    if current:
        return FunctionState.ACTIVE
    if newest_state is VersionState.FAILED:
        return FunctionState.ERROR
    return FunctionState.PENDING


def checked_spec(fields: dict[str, Any]) -> FunctionSpec:
    """A spec from fields that may come from a PUT. Raises InvalidValue (details.fields)."""
    try:
        spec = FunctionSpec.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error) from None
    check_instances(spec.min_instances, spec.max_instances)
    return spec


def check_instances(min_instances: int, max_instances: int) -> None:
    """Raises InvalidValue."""
    if min_instances < 0 or max_instances < 1 or min_instances > max_instances:
        raise InvalidValue(
            f"min_instances ({min_instances}) must be from 0 to max_instances ({max_instances}), which is at least 1",
            details={"min_instances": min_instances, "max_instances": max_instances},
        )


def function_record(
    entry: FunctionEntry,
    base_url: str,
    node_id: str,
    ways: list[StartKind],
    unavailable: tuple[WayDown, ...],
    last_invoked_at: str | None,
) -> FunctionRecord:
    """The answer to every function route. Of the secrets only the names."""
    version = entry.shown_version
    spec = version.spec
    built = version.built
    limits = entry.limits(version)
    newest = entry.newest_version
    invocations = entry.stats.invocations
    total = sum(invocations.values())
    errors = total - invocations["success"]
    return FunctionRecord(
        volumes=spec.volumes,
        function_id=entry.function_id,
        id=entry.function_id,
        tenant_id=entry.tenant_id,
        name=entry.name,
        state=entry.state,
        version=entry.newest,
        current_version=entry.current or None,
        owner_node_id=node_id,
        handler=spec.handler,
        runtime=spec.runtime,
        image=spec.image,
        bundle_id=spec.bundle_id,
        layer_id=built.get("layer_id"),
        requirements=spec.requirements,
        description=spec.description,
        memory_limit_mb=spec.memory_limit_mb,
        cpu_limit_percent=spec.cpu_limit_percent,
        pids_limit=spec.pids_limit,
        timeout_seconds=spec.timeout_seconds,
        environment=spec.environment,
        secrets=sorted(spec.secrets),
        network=spec.network,
        result_limit_mb=spec.result_limit_mb,
        min_instances=limits.min,
        max_instances=limits.max,
        buffer_instances=limits.buffer,
        concurrency=spec.concurrency,
        idle_timeout_seconds=spec.idle_timeout_seconds,
        max_queue=spec.max_queue,
        recycle_after_invocations=spec.recycle_after_invocations,
        recycle_after_seconds=spec.recycle_after_seconds,
        recycle_memory_growth_mb=spec.recycle_memory_growth_mb,
        warmup_event=spec.warmup_event,
        auth=spec.auth,
        cleanup_on_exit=spec.cleanup_on_exit,
        hooks=spec.hooks,
        labels=spec.labels,
        python=spec.python,
        url=f"{base_url}/fn/{entry.name}",
        created_at=entry.created_at,
        updated_at=entry.updated_at,
        last_invoked_at=last_invoked_at,
        invocation_count=entry.stored_invocations + total,
        error_count=entry.stored_errors + errors,
        error_message=newest.error or None,
        snapshot=_snapshot(built, unavailable),
        start_paths=_start_paths(version, ways, unavailable),
        build=built.get("ms", {}),
    )


def _snapshot(built: dict[str, Any], unavailable: tuple[WayDown, ...]) -> SnapshotInfo:
    if not built:
        return SnapshotInfo()
    if built.get("snapshot_taken_at") is not None:
        return SnapshotInfo(
            state="ready", size_bytes=built.get("snapshot_bytes"), taken_at=built.get("snapshot_taken_at")
        )
    reasons = [way.reason for way in unavailable if way.kind is StartKind.RESTORE]
    return SnapshotInfo(state="none", reason=reasons[0] if reasons else None)


def _start_paths(version: VersionEntry, ways: list[StartKind], unavailable: tuple[WayDown, ...]) -> list[StartPath]:
    if version.state is not VersionState.READY:
        return []
    why_not = {way.kind: way.reason for way in unavailable}
    return [
        StartPath(kind="fork", available=StartKind.FORK in ways, reason=why_not.get(StartKind.FORK)),
        StartPath(kind="restore", available=StartKind.RESTORE in ways, reason=why_not.get(StartKind.RESTORE)),
        StartPath(kind="boot", available=StartKind.BOOT in ways, reason=why_not.get(StartKind.BOOT)),
    ]
