"""Builds versions and changes over to them, pauses, deletes: what moves a function from one set of pools to another.

Not here: how a version is built (`runtime`). A build is a task of its own that callers join and none of them cancels;
while a first version is built, its pool holds the invocations that come.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from pool import tasks
from pool.clock import Clock
from pool.functions import ASKED_DELETING, ASKED_NOTHING, ASKED_PAUSED, FunctionEntry, VersionEntry
from pool.log_files import LogFiles, Output
from pool.pools import Pools
from pool.records import Records
from pool.registry import Registry
from quilt_fn.errors import (
    Conflict,
    FunctionBroken,
    FunctionNotDeployed,
    FunctionNotFound,
    InternalError,
    QuiltError,
    RegistryUnavailable,
)
from quilt_fn.states import VersionState
from runtime.api import Built, FunctionRuntime, Progress

log = logging.getLogger(__name__)

SNAPSHOTS_KEPT = 2
"""So many of the newest ready versions keep their snapshots, for a rollback."""
VERSIONS_KEPT = 20
CAPACITY_WAIT_S = 60.0
DRAIN_GRACE_S = 5.0
DELETE_WAIT_S = 5.0
REGISTRY_WAIT_S = 30.0

Listener = Callable[[Progress], None]


@dataclass(slots=True)
class _Build:
    task: asyncio.Task[None]
    steps: list[Progress] = field(default_factory=list)
    listeners: list[Listener] = field(default_factory=list)

    def report(self, step: Progress) -> None:
        self.steps.append(step)
        for listener in list(self.listeners):
            try:
                listener(step)
            except Exception:  # whoever watches a build must not be able to break it
                log.exception("a listener of a build failed")
                self.listeners.remove(listener)


class Deployer:
    def __init__(
        self, registry: Registry, runtime: FunctionRuntime, pools: Pools, records: Records, logs: LogFiles, clock: Clock
    ) -> None:
        self._registry = registry
        self._runtime = runtime
        self._pools = pools
        self._records = records
        self._logs = logs
        self._clock = clock
        self._builds: dict[str, _Build] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._unsettled: list[tuple[FunctionEntry, VersionEntry]] = []
        self._deleting: set[str] = set()

    # deploy

    async def deploy(self, entry: FunctionEntry, progress: Listener | None) -> None:
        """Build the newest version (join a build of it that runs), make it current, wait for its min_instances.

        Raises BuildFailed and what else the runtime's build raises; Conflict, RegistryUnavailable.
        """
        version = entry.newest_version
        if version.state is not VersionState.READY:
            build = await self.begin(entry, version)
            if progress is not None:
                for step in list(build.steps):
                    progress(step)
                build.listeners.append(progress)
            try:
                await asyncio.shield(build.task)
            except asyncio.CancelledError:
                if not build.task.cancelled() or _is_cancelled():
                    raise
                raise FunctionNotFound(f"function {entry.name} was deleted while it was built") from None
            finally:
                if progress is not None and progress in build.listeners:
                    build.listeners.remove(progress)
        if entry.asked == ASKED_PAUSED:
            await self.resume(entry)
        await self._capacity(entry)

    async def begin(self, entry: FunctionEntry, version: VersionEntry) -> _Build:
        """The running build of a version, begun where there is none."""
        key = entry.version_spec(version).key
        running = self._builds.get(key)
        if running is not None:
            return running
        if self._unsettled:
            await self.settle()
        gate: asyncio.Event = asyncio.Event()
        build = _Build(asyncio.get_running_loop().create_task(self._build(entry, version, key, gate)))
        build.task.add_done_callback(_seen)
        self._builds[key] = build
        try:
            await self._registry.move_version(entry, version.number, VersionState.BUILDING)
        except BaseException:
            del self._builds[key]
            build.task.cancel()
            raise
        self._pools.refresh(entry)
        gate.set()
        return build

    async def _build(self, entry: FunctionEntry, version: VersionEntry, key: str, gate: asyncio.Event) -> None:
        await gate.wait()
        build = self._builds[key]
        try:
            try:
                built = await self._runtime.build(entry.version_spec(version), build.report)
            except asyncio.CancelledError:
                raise
            except QuiltError as error:
                await self._keep_output(entry, str((error.details or {}).get("output") or ""))
                await self._failed(entry, version, error)
                raise
            except Exception as error:
                internal = InternalError(f"the build ended with an internal error: {error!r}")
                await self._failed(entry, version, internal)
                raise internal from error
            await self._keep_output(entry, built.output)
            await self._ready(entry, version, built)
        finally:
            self._builds.pop(key, None)

    async def _keep_output(self, entry: FunctionEntry, text: str) -> None:
        """What the build's code printed goes to the function's log, as no invocation's."""
        if not text:
            return
        try:
            await self._logs.append([Output(entry.function_id, None, None, self._clock.wall(), text.encode(), b"")])
        except OSError as error:
            log.error("what the build of %s printed could not be written: %s", entry.name, error)

    async def _ready(self, entry: FunctionEntry, version: VersionEntry, built: Built) -> None:
        packed = {
            "layer_id": built.layer_id,
            "ms": dict(built.ms),
            "snapshot_bytes": built.snapshot_bytes,
            "snapshot_taken_at": built.snapshot_taken_at,
            "unavailable": [[way.kind, way.reason] for way in built.unavailable],
            "wants_request": built.wants_request,
        }
        try:
            await self._persist(
                lambda: self._registry.move_version(entry, version.number, VersionState.READY, built=packed)
            )
        except QuiltError as error:
            if not isinstance(error, FunctionNotFound):
                await self._failed(entry, version, error)
            raise
        self._pools.refresh(entry)
        self._tidy(entry)

    async def _failed(self, entry: FunctionEntry, version: VersionEntry, error: QuiltError) -> None:
        log.warning("%s v%d: build failed: %s", entry.name, version.number, error.message)
        reason = f"{error.error_code}: {error.message}"
        try:
            await self._persist(
                lambda: self._registry.move_version(entry, version.number, VersionState.FAILED, error=reason)
            )
        except (RegistryUnavailable, FunctionNotFound, Conflict) as second:
            # Redis still says `building`; here it is over, and `settle` says so there when it can.
            log.error("%s v%d: its failure could not be kept: %s", entry.name, version.number, second.message)
            version.state, version.error = VersionState.FAILED, reason
            self._unsettled.append((entry, version))
        broken = FunctionBroken(f"function {entry.name} could not be built: {error.message}")
        self._pools.fail_building(entry.version_spec(version).key, broken)
        self._pools.refresh(entry)

    async def settle(self) -> None:
        """Write what Redis did not take when it was due: builds that failed, and deletions."""
        for entry, version in list(self._unsettled):
            try:
                await self._registry.move_version(entry, version.number, VersionState.FAILED, error=version.error)
            except (Conflict, FunctionNotFound) as error:
                log.info("%s v%d: %s", entry.name, version.number, error.message)
            self._unsettled.remove((entry, version))
        for entry in self._registry.all():
            if entry.asked == ASKED_DELETING and entry.function_id not in self._deleting:
                await self.finish_delete(entry)

    async def _persist(self, write: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A write that follows from long work: tried for a while where Redis is away."""
        end = self._clock.now() + REGISTRY_WAIT_S
        while True:
            try:
                return await write()
            except RegistryUnavailable:
                if self._clock.now() >= end:
                    raise
                await asyncio.sleep(0.2)

    async def _capacity(self, entry: FunctionEntry) -> None:
        pool = self._pools.current(entry)
        if pool is None or pool.limits.min == 0:
            return
        with contextlib.suppress(TimeoutError):  # the record's pool says what there is
            async with asyncio.timeout(CAPACITY_WAIT_S):
                await pool.at_min()

    def _tidy(self, entry: FunctionEntry) -> None:
        """Let go of snapshots and records of versions that are old."""
        ready = sorted((each for each in entry.versions.values() if each.state is VersionState.READY), key=_number)
        for version in ready[:-SNAPSHOTS_KEPT]:
            if version.number != entry.current and not version.forgotten:
                version.forgotten = True
                self._own(self._retire_version(entry, version))
        for number in sorted(entry.versions)[:-VERSIONS_KEPT]:
            if number not in (entry.current, entry.newest):
                self._own(self._drop_version(entry, number))

    async def _retire_version(self, entry: FunctionEntry, version: VersionEntry) -> None:
        spec = entry.version_spec(version)
        await self._pools.drained(spec.key)
        try:
            await self._runtime.forget(spec)
        except QuiltError as error:
            log.error("%s could not be forgotten: %s", spec.key, error.message)

    async def _drop_version(self, entry: FunctionEntry, number: int) -> None:
        try:
            await self._registry.drop_version(entry, number)
        except RegistryUnavailable as error:
            log.info("%s v%d stays for now: %s", entry.name, number, error.message)

    # pause, resume, delete

    async def pause(self, entry: FunctionEntry) -> None:
        """Refuse invocations, drain, scale to zero; the snapshot stays. Raises FunctionNotDeployed."""
        if not entry.current:
            raise FunctionNotDeployed(f"function {entry.name} has no version to pause", details={"state": entry.state})
        await self._registry.set_asked(entry, ASKED_PAUSED)
        self._pools.refresh(entry)

    async def resume(self, entry: FunctionEntry) -> None:
        """Serve again. Raises Conflict where it was not paused."""
        if entry.asked != ASKED_PAUSED:
            raise Conflict(f"function {entry.name} is not paused", details={"state": entry.state})
        await self._registry.set_asked(entry, ASKED_NOTHING)
        self._pools.refresh(entry)
        await self._capacity(entry)

    async def delete(self, entry: FunctionEntry) -> None:
        """Not found from now on; returns when all has gone, or soon, where invocations still run."""
        await self._registry.set_asked(entry, ASKED_DELETING)
        self._pools.refresh(entry)
        task = self._own(self.finish_delete(entry))
        await asyncio.wait([task], timeout=DELETE_WAIT_S)

    async def finish_delete(self, entry: FunctionEntry) -> None:
        """Drain, then remove templates, snapshots, logs, records and keys. Safe to repeat."""
        self._deleting.add(entry.function_id)
        try:
            await self._finish_delete(entry)
        finally:
            self._deleting.discard(entry.function_id)

    async def _finish_delete(self, entry: FunctionEntry) -> None:
        for version in entry.versions.values():
            build = self._builds.get(entry.version_spec(version).key)
            if build is not None:
                build.task.cancel()
                await asyncio.wait([build.task])
        limit_s = max(version.spec.timeout_seconds for version in entry.versions.values()) + DRAIN_GRACE_S
        await self._pools.close_function(entry, limit_s)
        for version in list(entry.versions.values()):
            try:
                await self._runtime.forget(entry.version_spec(version))
            except QuiltError as error:
                log.error("%s v%d could not be forgotten: %s", entry.name, version.number, error.message)
        await self._records.flush()
        self._records.forget(entry.function_id)
        await self._logs.delete(entry.function_id)
        try:
            await self._registry.delete(entry)
        except RegistryUnavailable as error:
            log.warning("%s: its keys are deleted when Redis is back: %s", entry.name, error.message)

    # tasks

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def close(self) -> None:
        """Cancel builds and what waits for a drain; the next start takes both up."""
        await tasks.end([*self._background, *(build.task for build in self._builds.values())])


def _number(version: VersionEntry) -> int:
    return version.number


def _is_cancelled() -> bool:
    """Whether it is the running task that was cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _seen(task: asyncio.Task[None]) -> None:
    """A build that nobody waits for has reported its failure already."""
    if not task.cancelled():
        task.exception()
