"""What a container goes through: each step leaves it in a state that stands, or in one that `settle` brings to one.

Every step's caller holds the container's lock, but for what happens by itself (a command's end, an init's end), which
takes it. Not here: who asks, records, quotas (`service`), and which decision is right (`policy`).
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import os
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from pool import tasks
from pool.clock import Clock, iso
from pool.containers import policy
from pool.containers.entry import ContainerEntry, main_command, runtime_spec
from pool.containers.registry import ContainerRegistry
from quilt_fn.errors import ContainerBroken, ContainerNotRunning, InvalidValue, QuiltError
from quilt_fn.model.container import ContainerCreate
from quilt_fn.states import ContainerState as State
from runtime.containers.api import Attached, CommandNotStarted, Containers, InitLink, LiveContainer
from runtime.containers.ends import KILLED, exit_reason
from runtime.containers.log import FILE_LIMIT_BYTES, open_files

log = logging.getLogger(__name__)

SETTLED = (State.CREATED, State.RUNNING, State.PAUSED, State.EXITED, State.ERROR)


class Lifecycle:
    """`attachments(tenant_id, volumes)` says what is to be mounted, at each start anew; it may raise."""

    def __init__(
        self, registry: ContainerRegistry, runtime: Containers, logs: Path, clock: Clock,
        attachments: Callable[[str, builtins.list[str]], tuple[Attached, ...]],
    ) -> None:  # fmt: skip
        self._registry = registry
        self._runtime = runtime
        self._logs = logs
        self._clock = clock
        self._attachments = attachments
        self._tasks: set[asyncio.Task[None]] = set()
        self._up_since: dict[str, float] = {}
        self._in_a_row: dict[str, int] = {}
        self._kills_before: dict[str, int] = {}
        """What the kernel had killed for memory in a container when its command began."""
        self._reasons: dict[str, str] = {}
        """Why an init has ended, until it is written down."""
        self._unwanted: set[str] = set()
        """Those whose create failed, and which are to go as soon as that can be done."""
        self._returning: Counter[str] = Counter()
        """Those whose command has just ended, or their init: a task is at it, and may start them again."""
        runtime.on_gone(self._init_gone)

    # --- steps ----------------------------------------------------------------------------------------------------

    async def start(self, entry: ContainerEntry) -> None:
        """From created or exited. One that can't be started is `exited` as before, with the reason. Raises
        ContainerBroken, and what a start raises.
        """
        if entry.state is State.ERROR:
            raise ContainerBroken(
                f"the container is broken: {entry.kept.error_message}", details={"state": entry.state},
                hint="Delete it and create it anew.",
            )  # fmt: skip
        entry.attached = self._attachments(entry.tenant_id, entry.spec.volumes)
        await self._registry.move(entry, State.STARTING)
        kept = entry.kept
        try:
            live = await self._runtime.start(runtime_spec(entry))
            kept.exit_code = kept.exit_reason = kept.error_message = kept.exited_at = None
            kept.started_at, kept.address = iso(self._clock.wall()), live.address
            self._kills_before[entry.container_id] = 0
            self._up_since[entry.container_id] = self._clock.now()
            await self._attend(entry, live, start_command=True)
            await self._registry.move(entry, State.RUNNING)
        except BaseException as error:
            try:
                await self._not_started(entry, str(error) or type(error).__name__)
            except QuiltError as second:
                log.warning("container %s stays `starting` for now: %s", entry.name, second.message)
            raise

    async def _not_started(self, entry: ContainerEntry, why: str) -> None:
        await self._runtime.stop(entry.container_id, 0)
        entry.command_running = False
        entry.kept.exit_code, entry.kept.exit_reason, entry.kept.error_message = None, "not_started", why
        entry.kept.exited_at = iso(self._clock.wall())
        await self._registry.move(entry, State.EXITED)

    async def stop(self, entry: ContainerEntry, timeout_s: float, reason: str) -> None:
        """From running or paused."""
        await self._registry.move(entry, State.STOPPING)
        await self._runtime.stop(entry.container_id, timeout_s)
        await self._ended(entry, reason)

    async def _ended(self, entry: ContainerEntry, reason: str) -> None:
        """Nothing of it runs any more. Of a command that had ended before, the exit code stays as it was, and where its
        user ended the container its reason too.
        """
        kept = entry.kept
        if entry.command_running or kept.exit_code is None:
            kept.exit_code = KILLED if kept.wanted or entry.spec.command is not None else 0
            kept.exit_reason = reason
        elif kept.wanted:
            kept.exit_reason = reason
        entry.command_running = False
        kept.exited_at = iso(self._clock.wall())
        await self._registry.move(entry, State.EXITED)

    async def pause(self, entry: ContainerEntry) -> None:
        """From running."""
        try:
            await self._runtime.pause(entry.container_id)
            await self._registry.move(entry, State.PAUSED)
        except BaseException:
            # Also where the pause was broken off: it may be frozen by then, and would answer nobody, running as it is.
            try:
                await self._runtime.resume(entry.container_id)
            except QuiltError as second:
                log.warning("container %s may be frozen: %s", entry.name, second.message)
            raise

    async def resume(self, entry: ContainerEntry) -> None:
        """From paused."""
        await self._runtime.resume(entry.container_id)
        live = self._runtime.get(entry.container_id)
        if live is not None:
            await self._attend(entry, live, start_command=False)
        await self._registry.move(entry, State.RUNNING)

    async def change(self, entry: ContainerEntry, spec: ContainerCreate, *, resized: bool = False) -> None:
        """Another environment, or other limits (`resized`), at once where it runs. All or nothing."""
        before = entry.spec
        try:
            if resized and self._runtime.get(entry.container_id) is not None:
                await self._runtime.resize(entry.container_id, *_limits(spec))
            entry.kept.spec = spec
            await self._registry.move(entry, None)
        except BaseException:
            entry.kept.spec = before
            if resized and self._runtime.get(entry.container_id) is not None:
                try:
                    await self._limit_as_recorded(entry)
                except QuiltError as second:
                    log.warning("container %s may have other limits than its record: %s", entry.name, second.message)
            raise

    async def delete(self, entry: ContainerEntry) -> None:
        """From any state that stands, and from `deleting`."""
        if entry.state in (State.RUNNING, State.PAUSED):
            await self.stop(entry, 0, "killed")
        if entry.state is not State.DELETING:
            await self._registry.move(entry, State.DELETING)
        await self._runtime.delete(entry.container_id)
        await asyncio.to_thread(_remove_logs, self.log_folder(entry.container_id))
        await self._registry.delete(entry)
        for table in (self._up_since, self._in_a_row, self._kills_before, self._reasons):
            table.pop(entry.container_id, None)

    async def undo(self, entry: ContainerEntry) -> None:
        """Of a create that failed nothing stays; what can't be taken away now is taken away later."""
        self._unwanted.add(entry.container_id)
        try:
            await self.settle(entry)
        except QuiltError as error:
            log.warning("container %s could not be taken back yet: %s", entry.name, error.message)

    async def settle(self, entry: ContainerEntry) -> None:
        """Bring what an earlier step or node left half done to a state that stands."""
        live = self._runtime.get(entry.container_id)
        if entry.state is State.STARTING:
            if live is not None and entry.container_id not in self._unwanted:
                await self._started_by_another(entry, live)
            else:
                await self._not_started(entry, entry.kept.error_message or "its start was broken off")
        elif entry.state in (State.RUNNING, State.PAUSED) and live is None:
            reason = self._reasons.pop(entry.container_id, "init_died")
            await self._registry.move(entry, State.STOPPING)
            await self._runtime.stop(entry.container_id, 0)
            await self._ended(entry, reason)
        elif entry.state is State.STOPPING:
            await self._runtime.stop(entry.container_id, 0)
            await self._ended(entry, "killed")
        elif entry.state is State.DELETING:
            await self.delete(entry)
        if entry.container_id in self._unwanted:
            if entry.state is not State.DELETED:
                await self.delete(entry)
            self._unwanted.discard(entry.container_id)

    async def _started_by_another(self, entry: ContainerEntry, live: LiveContainer) -> None:
        """An earlier node broke off between its start and what follows."""
        try:
            await self._attend(entry, live, start_command=True)
        except InvalidValue as error:  # what its user asked for can't be had, however often it is tried
            await self._not_started(entry, error.message)
        else:
            await self._registry.move(entry, State.RUNNING)

    def unsettled(self, entry: ContainerEntry) -> bool:
        """Whether `settle` has something to do. Nobody is at it where its lock is free."""
        if entry.state not in SETTLED or entry.container_id in self._unwanted:
            return True
        return entry.state in (State.RUNNING, State.PAUSED) and self._runtime.get(entry.container_id) is None

    async def take_over(self, entry: ContainerEntry, reason: str | None) -> None:
        """At a node's start. `reason`: why its init has ended, where it had one that did."""
        if reason is not None:
            self._reasons[entry.container_id] = reason
        live = self._runtime.get(entry.container_id)
        before = entry.state
        if live is None:
            await self.settle(entry)
            self._reasons.pop(entry.container_id, None)
            if self._comes_back(entry):
                self._own_return(entry, self._restart(entry), "start again")
            return
        # What was paused, resumed or resized when the last node died is made what its record says.
        self._up_since[entry.container_id] = self._clock.now()
        await self._limit_as_recorded(entry)
        if before is State.PAUSED:
            await self._runtime.pause(entry.container_id)
            return
        await self._runtime.resume(entry.container_id)
        await self.settle(entry)
        if before is State.RUNNING:
            await self._attend(entry, live, start_command=False)

    async def _limit_as_recorded(self, entry: ContainerEntry) -> None:
        try:
            await self._runtime.resize(entry.container_id, *_limits(entry.spec))
        except InvalidValue as error:
            # It grew under a larger limit that was never answered: that one stays until the container ends.
            log.warning("container %s keeps larger limits than it should: %s", entry.name, error.message)

    # --- its own command ------------------------------------------------------------------------------------------

    async def _attend(self, entry: ContainerEntry, live: LiveContainer, *, start_command: bool) -> None:
        """Give init the files for its command's output, and start the command, or see how it stands."""
        live.on_main_exit = lambda code: self._command_ended(entry, code)
        if not start_command:  # as recorded, should init not answer below
            entry.command_running = entry.spec.command is not None and entry.kept.exit_code is None
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
        if seen.main_pid is None:
            if start_command:
                await _make_folder(link, entry.spec.working_directory)
                await self._start_command(entry, live)
        elif seen.main_exit is None:
            entry.command_running = True
            self._kills_before.setdefault(entry.container_id, live.memory.seen())
        else:  # while nobody listened, or before: it may have to come back
            entry.command_running = True
            self._command_ended(entry, seen.main_exit)

    async def _start_command(self, entry: ContainerEntry, live: LiveContainer) -> None:
        command = main_command(entry)
        if command is None or live.link is None:
            return
        entry.kept.exit_code = entry.kept.exit_reason = None
        # Before it is asked for: its end may be told in the same breath as its start.
        entry.command_running = True
        self._up_since[entry.container_id] = self._clock.now()
        self._kills_before[entry.container_id] = live.memory.seen()
        try:
            await live.link.start_main(command)
        except CommandNotStarted as error:
            entry.command_running = False
            entry.kept.exit_code, entry.kept.exit_reason = error.exit_code, "not_started"
            entry.kept.error_message = str(error)
        except BaseException:
            entry.command_running = False
            raise

    def _command_ended(self, entry: ContainerEntry, code: int) -> None:
        """May be told more than once of one end."""
        if not entry.command_running:
            return
        entry.command_running = False
        live = self._runtime.get(entry.container_id)
        # Where the container is being ended, or has, its own end says why its command was killed.
        if code != KILLED or (live is not None and entry.state is not State.STOPPING):
            before = self._kills_before.get(entry.container_id, 0)
            for_memory = live is not None and live.memory.explains(code, before)
            entry.kept.exit_reason = exit_reason(code, for_memory)
            entry.kept.exit_code, entry.kept.exited_at = code, iso(self._clock.wall())
        self._own_return(entry, self._after_command(entry, code), "after the command")

    async def _after_command(self, entry: ContainerEntry, code: int) -> None:
        ctr = entry.container_id
        if entry.state in (State.RUNNING, State.PAUSED):
            await self._registry.move(entry, None)
        pause = self._pause(entry, code)
        if pause is None:
            return
        await asyncio.sleep(pause)
        async with entry.lock:
            live = self._runtime.get(ctr)
            if entry.state is State.RUNNING and live is not None and not entry.command_running:
                entry.kept.restart_count += 1
                await self._start_command(entry, live)
                await self._registry.move(entry, None)

    def _pause(self, entry: ContainerEntry, code: int) -> float | None:
        ctr = entry.container_id
        ran_s = self._clock.now() - self._up_since.get(ctr, self._clock.now())
        before = 0 if ran_s >= policy.STEADY_S else self._in_a_row.get(ctr, 0)
        self._in_a_row[ctr] = before + 1
        return policy.pause_before_restart(entry.spec.restart, code, before, ran_s)

    def is_silent(self, entry: ContainerEntry) -> bool:
        """Whether its command has ended, or there is none, and nothing but its user starts it again."""
        if self._returning[entry.container_id]:
            return False
        if entry.state in (State.RUNNING, State.PAUSED):
            return not entry.command_running
        return entry.state in (State.EXITED, State.ERROR, State.DELETED)

    # --- its init -------------------------------------------------------------------------------------------------

    def _init_gone(self, container_id: str, reason: str) -> None:
        entry = self._registry.known(container_id)
        if entry is not None:
            self._reasons[container_id] = reason
            self._own_return(entry, self._after_init(entry), "after the init")

    async def _after_init(self, entry: ContainerEntry) -> None:
        async with entry.lock:
            if entry.state in (State.RUNNING, State.PAUSED) and self._runtime.get(entry.container_id) is None:
                await self.settle(entry)
            self._reasons.pop(entry.container_id, None)
        if self._comes_back(entry):
            await self._restart(entry)

    def _comes_back(self, entry: ContainerEntry) -> bool:
        kept = entry.kept
        return entry.state is State.EXITED and kept.wanted and policy.comes_back(entry.spec.restart, kept.exit_reason)

    async def _restart(self, entry: ContainerEntry) -> None:
        """Until it runs, or somebody has stopped or deleted it."""
        while (pause := self._pause(entry, KILLED)) is not None:
            await asyncio.sleep(pause)
            async with entry.lock:
                try:
                    await self.settle(entry)
                    if entry.state is not State.EXITED or not entry.kept.wanted:
                        return
                    entry.kept.restart_count += 1
                    await self.start(entry)
                    return
                except QuiltError as error:
                    log.warning("container %s could not be started again: %s", entry.name, error.message)

    # --- tasks and files ------------------------------------------------------------------------------------------

    def log_folder(self, container_id: str) -> Path:
        """Where its command's output is kept."""
        return self._logs / container_id

    def remove_old_logs(self) -> None:
        """The output of containers that are no more. Blocks."""
        for folder in self._logs.iterdir() if self._logs.is_dir() else ():
            if self._registry.known(folder.name) is None:
                _remove_logs(folder)

    def _own_return(self, entry: ContainerEntry, work: Coroutine[Any, Any, None], name: str) -> None:
        ctr = entry.container_id
        self._returning[ctr] += 1

        def over(_task: object) -> None:
            self._returning[ctr] -= 1
            if not self._returning[ctr]:
                del self._returning[ctr]

        self.own(work, f"{ctr}: {name}").add_done_callback(over)

    def own(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task that ends with this node; what it raises of ours is logged."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(_logged(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """End what goes on by itself. Containers run on."""
        await tasks.end(self._tasks)


async def _logged(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    except QuiltError as error:
        log.warning("%s: %s", name, error.message)


def _limits(spec: ContainerCreate) -> tuple[int, int, int]:
    return spec.memory_limit_mb, spec.cpu_limit_percent, spec.pids_limit


async def _make_folder(link: InitLink, folder: str) -> None:
    """Raises InvalidValue."""
    if folder == "/":
        return
    try:
        await link.make_folder(folder)
    except CommandNotStarted as error:
        raise InvalidValue(
            f"the container can't begin in its {error}",
            details={"fields": [{"field": "working_directory", "expected": "a folder that is there or can be made"}]},
        ) from None


def _remove_logs(folder: Path) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        path.unlink(missing_ok=True)
    if folder.is_dir():
        folder.rmdir()
