"""What is asked of containers: one verb at a time for each, each leaving a legal state, whatever fails on the way.

A verb holds the container's lock from its first look to its last write. What it finds half done (an earlier verb
failed, or a node died) it settles first. Not here: HTTP, and commands in a container (`pool.containers.commands`).
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from pool.clock import Clock, iso
from pool.containers import readiness
from pool.containers.entry import ContainerEntry, main_command, record, runtime_spec
from pool.containers.policy import exit_reason, pause_before_restart
from pool.containers.registry import ContainerRegistry
from quilt_fn.errors import (
    Conflict,
    ContainerBroken,
    ContainerNotFound,
    ContainerNotRunning,
    NotFound,
    QuiltError,
    VolumeNotFound,
)
from quilt_fn.model.container import ContainerCreate, ContainerRecord
from quilt_fn.states import ContainerState as State
from runtime.containers.api import Attached, CommandNotStarted, Containers, LiveContainer
from runtime.containers.log import FILE_LIMIT_BYTES, ContainerLog, open_files

log = logging.getLogger(__name__)

TTL_LOOK_S = 1.0
KILLED = 137


class ContainerService:
    """`attaching(tenant_id, volumes)` (at a create, held until the record is written), `attachments` (at a later start)
    are others' checks; each may raise. So may `quota(tenant_id, memory_mb, container_id)`, which is held around the
    write of a new container (None) and of another limit.
    """

    def __init__(self, registry: ContainerRegistry, runtime: Containers, logs: Path, clock: Clock) -> None:
        self._registry = registry
        self._runtime = runtime
        self._logs = logs
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._command_started: dict[str, float] = {}
        self._in_a_row: dict[str, int] = {}
        self._kills: dict[str, int] = {}
        self.attaching: Callable[[str, builtins.list[str]], AbstractContextManager[tuple[Attached, ...]]] = (
            lambda tenant_id, volumes: contextlib.nullcontext(self.attachments(tenant_id, volumes))
        )
        self.attachments: Callable[[str, builtins.list[str]], tuple[Attached, ...]] = _no_volumes
        self.quota: Callable[[str, int, str | None], AbstractContextManager[None]] = lambda *_: contextlib.nullcontext()
        runtime.on_gone(self._init_gone)

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
        """Lines {t, stream, text} of its own command, oldest first; with `follow` it goes on until closed."""
        self._registry.get(tenant_id, container_id)
        async for line in ContainerLog(self.log_folder(container_id)).lines(limit, follow=follow):
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
        with quota, self.attaching(tenant_id, spec.volumes) as attached:
            entry = await self._registry.create(tenant_id, spec)
        entry.attached = attached
        async with entry.lock:
            try:
                await self._start(entry)
            except BaseException:
                await asyncio.shield(self._own(self._undo(entry), f"undo {entry.container_id}"))
                raise
        return await self._record(entry)

    async def _undo(self, entry: ContainerEntry) -> None:
        try:
            await self._runtime.delete(entry.container_id)
            await self._registry.delete(entry)
        except QuiltError as error:
            log.warning("container %s could not be taken back: %s", entry.container_id, error.message)

    async def start(self, tenant_id: str, container_id: str) -> ContainerRecord:
        """Idempotent on one that runs. Raises ContainerBroken, and what a start raises."""
        async with self._change(tenant_id, container_id) as entry:
            if entry.state is State.PAUSED:
                raise Conflict("the container is paused", details={"state": entry.state}, hint="Resume it.")
            if entry.state is not State.RUNNING:
                entry.attached = self.attachments(tenant_id, entry.spec.volumes)
                await self._start(entry)
        return await self._record(entry)

    async def _start(self, entry: ContainerEntry) -> None:
        if entry.state is State.ERROR:
            raise ContainerBroken(
                f"the container is broken: {entry.kept.error_message}", details={"state": entry.state},
                hint="Delete it and create it anew.",
            )  # fmt: skip
        before = entry.state
        await self._registry.move(entry, State.STARTING)
        try:
            live = await self._runtime.start(runtime_spec(entry))
        except BaseException as error:
            # Nothing runs. It was never up, or it is as stopped as before: `error` is for what can't be known.
            entry.kept.error_message = str(error) or type(error).__name__
            if before is not State.CREATED:
                await self._registry.move(entry, State.ERROR)
            raise
        kept = entry.kept
        kept.exit_code = kept.exit_reason = kept.error_message = kept.exited_at = None
        kept.started_at, kept.address = iso(self._clock.wall()), live.address
        self._kills[entry.container_id] = 0
        await self._attend(entry, live, start_command=True)
        await self._registry.move(entry, State.RUNNING)

    async def stop(self, tenant_id: str, container_id: str, timeout_s: float) -> ContainerRecord:
        """SIGTERM to the tree, `timeout_s`, SIGKILL. Idempotent on one that has ended."""
        async with self._change(tenant_id, container_id) as entry:
            if entry.state in (State.RUNNING, State.PAUSED):
                await self._stop(entry, timeout_s, "stopped" if timeout_s > 0 else "killed")
            elif entry.state is State.ERROR:
                await self._runtime.stop(container_id, 0)
        return await self._record(entry)

    async def _stop(self, entry: ContainerEntry, timeout_s: float, reason: str) -> None:
        await self._registry.move(entry, State.STOPPING)
        await self._runtime.stop(entry.container_id, timeout_s)
        kept = entry.kept
        if entry.command_running or kept.exit_code is None:
            kept.exit_code, kept.exit_reason = KILLED if entry.command_running else 0, reason
        entry.command_running = False
        kept.exited_at = iso(self._clock.wall())
        await self._registry.move(entry, State.EXITED)

    async def pause(self, tenant_id: str, container_id: str) -> ContainerRecord:
        async with self._change(tenant_id, container_id) as entry:
            if entry.state is not State.PAUSED:
                if entry.state is not State.RUNNING:
                    raise _not_running(entry)
                await self._runtime.pause(container_id)
                await self._registry.move(entry, State.PAUSED)
        return await self._record(entry)

    async def resume(self, tenant_id: str, container_id: str) -> ContainerRecord:
        """Of a paused one. Idempotent on one that runs."""
        async with self._change(tenant_id, container_id) as entry:
            if entry.state is not State.RUNNING:
                if entry.state is not State.PAUSED:
                    raise Conflict("the container is not paused", details={"state": entry.state}, hint="Start it.")
                await self._runtime.resume(container_id)
                live = self._runtime.get(container_id)
                if live is not None:
                    await self._attend(entry, live, start_command=False)
                await self._registry.move(entry, State.RUNNING)
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
            checked = ContainerCreate.model_validate(
                entry.spec.model_dump() | {"environment": {k: v for k, v in merged.items() if v is not None}}
            )
            entry.kept.spec = checked
            await self._registry.move(entry, None)
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
                if self._runtime.get(container_id) is not None:
                    await self._runtime.resize(
                        container_id, spec.memory_limit_mb, spec.cpu_limit_percent, spec.pids_limit
                    )
                entry.kept.spec = spec
                await self._registry.move(entry, None)
        return await self._record(entry)

    async def delete(self, tenant_id: str, container_id: str) -> None:
        """Whatever state it is in: what runs is killed, then all of it goes."""
        async with self._change(tenant_id, container_id) as entry:
            await self._delete(entry)

    async def _delete(self, entry: ContainerEntry) -> None:
        if entry.state in (State.RUNNING, State.PAUSED):
            await self._stop(entry, 0, "killed")
        if entry.state is not State.DELETING:
            await self._registry.move(entry, State.DELETING)
        await self._runtime.delete(entry.container_id)
        await asyncio.to_thread(_remove_logs, self.log_folder(entry.container_id))
        await self._registry.delete(entry)
        for table in (self._command_started, self._in_a_row, self._kills):
            table.pop(entry.container_id, None)

    @asynccontextmanager
    async def _change(self, tenant_id: str, container_id: str) -> AsyncIterator[ContainerEntry]:
        entry = self._registry.get(tenant_id, container_id)
        async with entry.lock:
            if entry.state is State.DELETED:  # while we waited
                raise ContainerNotFound(f"no container {container_id}")
            await self.settle(entry)
            self._registry.get(tenant_id, container_id)  # what was half deleted is gone now
            yield entry

    # --- what happens by itself -----------------------------------------------------------------------------------

    async def settle(self, entry: ContainerEntry) -> None:
        """Bring what an earlier verb or node left half done to a state that stands. The lock is the caller's."""
        live = self._runtime.get(entry.container_id)
        if entry.state is State.STARTING:
            if live is not None:
                await self._attend(entry, live, start_command=True)
                await self._registry.move(entry, State.RUNNING)
            else:
                await self._runtime.stop(entry.container_id, 0)
                entry.kept.error_message = entry.kept.error_message or "its start was broken off"
                await self._registry.move(entry, State.ERROR)
        elif entry.state in (State.RUNNING, State.PAUSED) and live is None:
            await self._gone(entry, "init_died")
        elif entry.state is State.STOPPING:
            await self._runtime.stop(entry.container_id, 0)
            entry.command_running = False
            if entry.kept.exit_code is None:
                entry.kept.exit_code, entry.kept.exit_reason = KILLED, "killed"
            entry.kept.exited_at = entry.kept.exited_at or iso(self._clock.wall())
            await self._registry.move(entry, State.EXITED)
        elif entry.state is State.DELETING:
            await self._delete(entry)

    async def _attend(self, entry: ContainerEntry, live: LiveContainer, *, start_command: bool) -> None:
        """Give init the files for its command's output, and start the command, or see how it stands."""
        live.on_main_exit = lambda code: self._command_ended(entry, code)
        link = live.link
        if link is None:
            raise ContainerNotRunning("the container's init does not answer", details={"state": entry.state})
        files = await asyncio.to_thread(open_files, self.log_folder(entry.container_id))
        try:
            await link.set_log(files, FILE_LIMIT_BYTES)
        finally:
            for fd in files:
                os.close(fd)
        seen = await link.status()
        if seen.main_pid is not None:
            entry.command_running = seen.main_exit is None
            if seen.main_exit is not None and entry.kept.exit_code is None:
                entry.kept.exit_code, entry.kept.exit_reason = seen.main_exit, exit_reason(seen.main_exit, False)
        elif start_command:
            await self._start_command(entry, live)

    async def _start_command(self, entry: ContainerEntry, live: LiveContainer) -> None:
        command = main_command(entry)
        if command is None or live.link is None:
            return
        entry.kept.exit_code = entry.kept.exit_reason = None
        try:
            await live.link.start_main(command)
        except CommandNotStarted as error:
            entry.kept.exit_code, entry.kept.exit_reason = error.exit_code, "not_started"
            entry.kept.error_message = str(error)
            return
        entry.command_running = True
        self._command_started[entry.container_id] = self._clock.now()

    def _command_ended(self, entry: ContainerEntry, code: int) -> None:
        entry.command_running = False
        entry.kept.exit_code = code
        entry.kept.exited_at = iso(self._clock.wall())
        entry.kept.exit_reason = exit_reason(code, False)
        self._own(self._after_command(entry, code), f"after the command of {entry.container_id}")

    async def _after_command(self, entry: ContainerEntry, code: int) -> None:
        if code == KILLED and entry.state is State.RUNNING:
            try:
                kills = int((await self._runtime.usage(entry.container_id))["oom_kills"])
            except QuiltError:
                kills = 0  # it is ending: its own end says why
            entry.kept.exit_reason = exit_reason(code, kills > self._kills.get(entry.container_id, 0))
            self._kills[entry.container_id] = kills
        if entry.state in (State.RUNNING, State.PAUSED):
            await self._registry.move(entry, None)
        pause = self._pause(entry, code)
        if pause is None:
            return
        await asyncio.sleep(pause)
        async with entry.lock:
            live = self._runtime.get(entry.container_id)
            if entry.state is State.RUNNING and live is not None and not entry.command_running:
                entry.kept.restart_count += 1
                await self._start_command(entry, live)
                await self._registry.move(entry, None)

    def _pause(self, entry: ContainerEntry, code: int) -> float | None:
        ctr = entry.container_id
        ran_s = self._clock.now() - self._command_started.get(ctr, self._clock.now())
        pause = pause_before_restart(entry.spec.restart, code, self._in_a_row.get(ctr, 0), ran_s)
        self._in_a_row[ctr] = 1 if pause is None or ran_s >= 10 else self._in_a_row.get(ctr, 0) + 1
        return pause

    def _init_gone(self, container_id: str, reason: str) -> None:
        entry = next((e for e in self._registry.all() if e.container_id == container_id), None)
        if entry is not None:
            self._own(self._after_init(entry, reason), f"after the init of {container_id}")

    async def _after_init(self, entry: ContainerEntry, reason: str) -> None:
        async with entry.lock:
            if entry.state not in (State.RUNNING, State.PAUSED) or self._runtime.get(entry.container_id) is not None:
                return
            await self._gone(entry, reason)
        pause = self._pause(entry, KILLED)
        if pause is not None:
            await asyncio.sleep(pause)
            await self._start_again(entry)

    async def _start_again(self, entry: ContainerEntry) -> None:
        async with entry.lock:
            if entry.state is State.EXITED:
                entry.kept.restart_count += 1
                await self._start(entry)

    async def _gone(self, entry: ContainerEntry, reason: str) -> None:
        """Its init has ended, and with it everything in it."""
        await self._registry.move(entry, State.STOPPING)
        await self._runtime.stop(entry.container_id, 0)
        entry.command_running = False
        entry.kept.exit_code, entry.kept.exit_reason = KILLED, reason
        entry.kept.exited_at = iso(self._clock.wall())
        await self._registry.move(entry, State.EXITED)

    async def run(self) -> None:
        """Delete what has lived its time, until cancelled."""
        while True:
            await asyncio.sleep(TTL_LOOK_S)
            now = self._clock.wall()
            for entry in self._registry.all():
                if entry.kept.expires_at is not None and entry.kept.expires_at <= now:
                    try:
                        await self.delete(entry.tenant_id, entry.container_id)
                    except NotFound:
                        continue
                    except QuiltError as error:
                        log.warning("container %s has expired, and stays for now: %s", entry.name, error.message)

    async def restore(self) -> None:
        """At a node's start: take what runs over, settle what was half done, and start what is to run always."""
        await self._registry.load()
        await self._runtime.adopt({entry.container_id: entry.tenant_id for entry in self._registry.all()})
        for entry in self._registry.all():
            async with entry.lock:
                try:
                    await self._take_over(entry)
                except QuiltError as error:
                    log.warning("container %s could not be settled: %s", entry.container_id, error.message)

    async def _take_over(self, entry: ContainerEntry) -> None:
        live = self._runtime.get(entry.container_id)
        was_running = entry.state is State.RUNNING
        await self.settle(entry)
        if live is not None and was_running:
            await self._attend(entry, live, start_command=False)
        elif was_running and live is None and entry.spec.restart == "always":
            entry.attached = self.attachments(entry.tenant_id, entry.spec.volumes)
            await self._start(entry)

    def log_folder(self, container_id: str) -> Path:
        """Where its command's output is kept."""
        return self._logs / container_id

    def _own(self, work: Any, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(_logged(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """End what goes on by itself. Containers run on."""
        for task in builtins.list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _logged(work: Any, name: str) -> None:
    try:
        await work
    except QuiltError as error:
        log.warning("%s: %s", name, error.message)


def _remove_logs(folder: Path) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        path.unlink(missing_ok=True)
    if folder.is_dir():
        folder.rmdir()


def _no_volumes(_tenant_id: str, volumes: builtins.list[str]) -> tuple[Attached, ...]:
    if volumes:
        raise VolumeNotFound(f"no volume is named {volumes[0].split(':')[0]!r}")
    return ()


def _not_running(entry: ContainerEntry) -> ContainerNotRunning:
    hint = {State.PAUSED: "Resume it.", State.ERROR: "Delete it."}.get(entry.state, "Start it.")
    return ContainerNotRunning(
        f"the container {entry.name!r} is {entry.state}", details={"state": entry.state}, hint=hint
    )
