"""What is asked of containers: one verb at a time for each, each leaving a legal state, whatever fails on the way.

A verb holds the container's lock from its first look to its last write. What it finds half done (an earlier verb
failed, or a node died) it settles first. Not here: HTTP, and commands in a container (`pool.containers.commands`).
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from pool.clock import Clock, iso
from pool.containers import policy, readiness
from pool.containers.entry import ContainerEntry, record
from pool.containers.lifecycle import Lifecycle
from pool.containers.own_work import OwnWork
from pool.containers.registry import ContainerRegistry
from quilt_fn.errors import (
    Conflict,
    ContainerNotFound,
    ContainerNotRunning,
    InvalidValue,
    QuiltError,
    VolumeNotFound,
)
from quilt_fn.model.container import ContainerCreate, ContainerRecord
from quilt_fn.states import ContainerState as State
from runtime.containers.api import Attached, Containers, LiveContainer
from runtime.containers.log import ContainerLog

log = logging.getLogger(__name__)

LOOK_S = 1.0


class ContainerService:
    """`attaching(tenant_id, volumes)` (at a create, held until the record is written), `attachments` (at a later start)
    are others' checks; each may raise. So may `quota(tenant_id, memory_mb, container_id)`, which is held around the
    write of a new container (None) and of another limit.
    """

    def __init__(self, registry: ContainerRegistry, runtime: Containers, logs: Path, clock: Clock) -> None:
        self._registry = registry
        self._runtime = runtime
        self._clock = clock
        self.attaching: Callable[[str, builtins.list[str]], AbstractContextManager[tuple[Attached, ...]]] = (
            lambda tenant_id, volumes: contextlib.nullcontext(self.attachments(tenant_id, volumes))
        )
        self.attachments: Callable[[str, builtins.list[str]], tuple[Attached, ...]] = _no_volumes
        self.quota: Callable[[str, int, str | None], AbstractContextManager[None]] = lambda *_: contextlib.nullcontext()
        self._own = OwnWork()
        self._lifecycle = Lifecycle(
            registry, runtime, logs, clock, lambda tenant_id, volumes: self.attachments(tenant_id, volumes), self._own
        )

    def users_of_volume(self, tenant_id: str, volume: str) -> builtins.list[str]:
        """The containers that have a volume attached, as `container:<name>`. From memory."""
        return [
            f"container:{entry.name}" for entry in self._registry.all()
            if entry.tenant_id == tenant_id and any(each.split(":", 1)[0] == volume for each in entry.spec.volumes)
        ]  # fmt: skip

    # --- reading --------------------------------------------------------------------------------------------------

    async def get(self, tenant_id: str, container_id: str) -> ContainerRecord:
        return await self._record(self._registry.get(tenant_id, container_id))

    async def by_name(self, tenant_id: str, name: str) -> ContainerRecord:
        return await self._record(self._registry.by_name(tenant_id, name))

    async def list(
        self, tenant_id: str, limit: int, cursor: str | None, state: str | None, labels: Mapping[str, str | None]
    ) -> tuple[builtins.list[ContainerRecord], str | None]:
        page, after = self._registry.list(tenant_id, limit, cursor, state, labels)
        return builtins.list(await asyncio.gather(*(self._record(entry) for entry in page))), after

    async def wait(self, tenant_id: str, container_id: str, state: State, timeout_s: float) -> ContainerRecord:
        """The record once it has that state; as it is then where the time is over first."""
        entry = self._registry.get(tenant_id, container_id)
        try:
            async with asyncio.timeout(timeout_s):
                while entry.state is not state and entry.state is not State.DELETED:
                    await entry.changed.wait()
        except TimeoutError:
            pass
        return await self._record(entry)

    def running(self, tenant_id: str, container_id: str) -> LiveContainer:
        """The live container, for whoever runs commands in it. Raises ContainerNotFound, ContainerNotRunning."""
        entry = self._registry.get(tenant_id, container_id)
        live = self._runtime.get(container_id)
        if entry.state is not State.RUNNING or live is None or live.link is None:
            raise _not_running(entry)
        return live

    def environment(self, tenant_id: str, container_id: str) -> dict[str, str]:
        """What new commands get."""
        return dict(self._registry.get(tenant_id, container_id).spec.environment)

    def working_directory(self, tenant_id: str, container_id: str) -> str:
        """Where new commands begin."""
        return self._registry.get(tenant_id, container_id).spec.working_directory

    async def usage(self, tenant_id: str, container_id: str) -> dict[str, Any]:
        """What it uses now, beside its limits. Raises ContainerNotRunning."""
        entry = self._needs_life(tenant_id, container_id)
        spec = entry.spec
        limits = {"memory_limit_bytes": spec.memory_limit_mb << 20, "cpu_limit_percent": spec.cpu_limit_percent}
        return {**await self._runtime.usage(container_id), **limits, "pids_limit": spec.pids_limit}

    async def processes(self, tenant_id: str, container_id: str) -> builtins.list[dict[str, Any]]:
        self._needs_life(tenant_id, container_id)
        return await self._runtime.processes(container_id)

    async def signal(self, tenant_id: str, container_id: str, pid: int, number: int) -> None:
        """To one process, by the container's own pid. Raises NotFound."""
        live = self.running(tenant_id, container_id)
        if pid == 1:
            raise Conflict("process 1 is the container's init", hint="stop or kill the container")
        assert live.link is not None
        await live.link.kill(pid, number)

    async def logs(
        self, tenant_id: str, container_id: str, *, limit: int, follow: bool
    ) -> AsyncIterator[dict[str, Any]]:
        """Lines {t, stream, text} of its own command, oldest first; with `follow` it goes on until closed, or until the
        command has ended and does not come back by itself.
        """
        entry = self._registry.get(tenant_id, container_id)
        log = ContainerLog(self.log_folder(container_id))
        async for line in log.lines(limit, follow=follow, ended=lambda: self._lifecycle.is_silent(entry)):
            yield {"t": line.t, "stream": line.stream, "text": line.text}

    def _needs_life(self, tenant_id: str, container_id: str) -> ContainerEntry:
        entry = self._registry.get(tenant_id, container_id)
        if self._runtime.get(container_id) is None:
            raise _not_running(entry)
        return entry

    async def _record(self, entry: ContainerEntry) -> ContainerRecord:
        live = self._runtime.get(entry.container_id)
        checks = await readiness.checks(entry, live, self._runtime.has_image(entry.spec.image))
        expires = entry.kept.expires_at
        return record(entry, live.pid if live else None, checks, iso(expires) if expires is not None else None)

    # --- verbs ----------------------------------------------------------------------------------------------------

    async def create(self, tenant_id: str, spec: ContainerCreate) -> ContainerRecord:
        """Running, and evaluated, when it returns. Where it can't be started nothing is left of it."""
        quota = self.quota(tenant_id, spec.memory_limit_mb, None)
        with quota, self.attaching(tenant_id, spec.volumes):
            entry = await self._registry.create(tenant_id, spec)
        async with entry.lock:
            try:
                await self._lifecycle.start(entry)
            except BaseException:
                await asyncio.shield(self._own.begin(self._lifecycle.undo(entry), f"undo {entry.container_id}"))
                raise
        return await self._record(entry)

    def check(self, verb: Literal["start", "resume"], tenant_id: str, container_id: str) -> None:
        """What can be said before it is begun: raises ContainerNotFound, and Conflict in a state that refuses it."""
        entry = self._registry.get(tenant_id, container_id)
        if not entry.lock.locked():  # else its state is about to be another
            (_check_start if verb == "start" else _check_resume)(entry)

    async def start(self, tenant_id: str, container_id: str) -> ContainerRecord:
        """Idempotent on one that runs. Raises ContainerBroken, and what a start raises."""
        async with self._change(tenant_id, container_id) as entry:
            _check_start(entry)
            if entry.state is not State.RUNNING:
                entry.kept.wanted = True
                await self._lifecycle.start(entry)
        return await self._record(entry)

    async def stop(self, tenant_id: str, container_id: str, timeout_s: float) -> ContainerRecord:
        """SIGTERM to the tree, `timeout_s`, SIGKILL. Idempotent on one that has ended."""
        async with self._change(tenant_id, container_id) as entry:
            entry.kept.wanted = False
            if entry.state in (State.RUNNING, State.PAUSED):
                await self._lifecycle.stop(entry, timeout_s, "stopped" if timeout_s > 0 else "killed")
            elif entry.state is State.EXITED:
                await self._registry.move(entry, None)  # it does not come back by itself either
            elif entry.state is State.ERROR:
                await self._runtime.stop(container_id, 0)
        return await self._record(entry)

    async def pause(self, tenant_id: str, container_id: str) -> ContainerRecord:
        async with self._change(tenant_id, container_id) as entry:
            if entry.state is not State.PAUSED:
                if entry.state is not State.RUNNING:
                    raise _not_running(entry)
                await self._lifecycle.pause(entry)
        return await self._record(entry)

    async def resume(self, tenant_id: str, container_id: str) -> ContainerRecord:
        """Of a paused one. Idempotent on one that runs."""
        async with self._change(tenant_id, container_id) as entry:
            _check_resume(entry)
            if entry.state is State.PAUSED:
                await self._lifecycle.resume(entry)
        return await self._record(entry)

    async def rename(self, tenant_id: str, container_id: str, new_name: str) -> ContainerRecord:
        """Its host name follows at the next start. Raises NameTaken."""
        async with self._change(tenant_id, container_id) as entry:
            await self._registry.rename(entry, new_name)
        return await self._record(entry)

    async def set_environment(
        self, tenant_id: str, container_id: str, values: Mapping[str, str | None], *, replace: bool
    ) -> dict[str, str]:
        """Merge (None takes one out) or replace what new commands get, the next start's own command among them."""
        async with self._change(tenant_id, container_id) as entry:
            merged = {**({} if replace else entry.spec.environment), **values}
            whole = {name: value for name, value in merged.items() if value is not None}
            try:
                checked = ContainerCreate.model_validate(entry.spec.model_dump() | {"environment": whole})
            except ValidationError as error:  # each part was checked: together they are too much
                raise InvalidValue(f"environment: {error.errors()[0]['msg']}") from None
            await self._lifecycle.change(entry, checked)
        return dict(checked.environment)

    async def resize(
        self, tenant_id: str, container_id: str, memory_mb: int | None, cpu_percent: int | None, pids: int | None
    ) -> ContainerRecord:
        """Other limits: at once where it runs, else at its next start. Raises InvalidValue where it uses more now."""
        async with self._change(tenant_id, container_id) as entry:
            spec = entry.spec.model_copy(
                update={
                    "memory_limit_mb": memory_mb or entry.spec.memory_limit_mb,
                    "cpu_limit_percent": cpu_percent or entry.spec.cpu_limit_percent,
                    "pids_limit": pids or entry.spec.pids_limit,
                }
            )
            with self.quota(tenant_id, spec.memory_limit_mb, container_id):
                await self._lifecycle.change(entry, spec, resized=True)
        return await self._record(entry)

    async def delete(self, tenant_id: str, container_id: str) -> None:
        """Whatever state it is in: what runs is killed, then all of it goes."""
        async with self._change(tenant_id, container_id) as entry:
            entry.kept.wanted = False
            await self._lifecycle.delete(entry)

    @asynccontextmanager
    async def _change(self, tenant_id: str, container_id: str) -> AsyncIterator[ContainerEntry]:
        entry = self._registry.get(tenant_id, container_id)
        async with entry.lock:
            if entry.state is State.DELETED:  # while we waited
                raise ContainerNotFound(f"no container {container_id}")
            await self._lifecycle.settle(entry)
            self._registry.get(tenant_id, container_id)  # what was half deleted is gone now
            yield entry

    # --- what happens by itself -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Delete what has lived its time, and settle what was left half done, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self._look()

    def _look(self) -> None:
        """What is found is done beside: one that takes long, or fails, keeps none of the others waiting."""
        now = self._clock.wall()
        for entry in self._registry.all():
            if entry.lock.locked():
                continue  # somebody is at it
            if policy.expired(entry.kept.expires_at, now):
                self._own.begin(self._expire(entry), f"expire {entry.container_id}")
            elif self._lifecycle.unsettled(entry):
                self._own.begin(self._settle(entry), f"settle {entry.container_id}")

    async def _expire(self, entry: ContainerEntry) -> None:
        with contextlib.suppress(ContainerNotFound):
            await self.delete(entry.tenant_id, entry.container_id)

    async def _settle(self, entry: ContainerEntry) -> None:
        async with entry.lock:
            await self._lifecycle.settle(entry)

    async def restore(self) -> None:
        """At a node's start: take what runs over, settle what was half done, and start what is to run always."""
        await self._registry.load()
        entries = self._registry.all()
        ended = await self._runtime.adopt({entry.container_id: entry.tenant_id for entry in entries})
        await asyncio.to_thread(self._lifecycle.remove_old_logs)
        # Beside each other: one whose init does not answer must not keep the node from starting.
        await asyncio.gather(*(self._take_over(entry, ended.get(entry.container_id)) for entry in entries))

    async def _take_over(self, entry: ContainerEntry, reason: str | None) -> None:
        async with entry.lock:
            try:
                await self._lifecycle.take_over(entry, reason)
            except QuiltError as error:
                log.warning("container %s could not be settled: %s", entry.name, error.message)

    def log_folder(self, container_id: str) -> Path:
        """Where its command's output is kept."""
        return self._lifecycle.log_folder(container_id)

    async def close(self) -> None:
        """End what goes on by itself. Containers run on."""
        await self._own.close()


def _no_volumes(_tenant_id: str, volumes: builtins.list[str]) -> tuple[Attached, ...]:
    if volumes:
        raise VolumeNotFound(f"no volume is named {volumes[0].split(':')[0]!r}")
    return ()


def _check_start(entry: ContainerEntry) -> None:
    if entry.state is State.PAUSED:
        raise Conflict(f"the container {entry.name!r} is paused", details={"state": entry.state}, hint="Resume it.")


def _check_resume(entry: ContainerEntry) -> None:
    if entry.state not in (State.PAUSED, State.RUNNING):
        what = f"the container {entry.name!r} is not paused, it is {entry.state}"
        raise Conflict(what, details={"state": entry.state}, hint="Start it.")


def _not_running(entry: ContainerEntry) -> ContainerNotRunning:
    hint = {State.PAUSED: "Resume it.", State.ERROR: "Delete it."}.get(entry.state, "Start it.")
    return ContainerNotRunning(
        f"the container {entry.name!r} is {entry.state}", details={"state": entry.state}, hint=hint
    )
