"""What a container goes through: each step leaves it in a state that stands, or in one that `settle` brings to one.

Every step's caller holds the container's lock, but for what happens by itself (an init's end), which takes it. Not
here: who asks, records, quotas (`service`), its command (`main_command`), and which decision is right (`policy`).
"""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import Callable
from pathlib import Path

from pool.clock import Clock, iso
from pool.containers import policy
from pool.containers.entry import ContainerEntry, runtime_spec
from pool.containers.main_command import MainCommands
from pool.containers.own_work import OwnWork
from pool.containers.registry import ContainerRegistry
from quilt_fn.errors import ContainerBroken, InvalidValue, QuiltError
from quilt_fn.model.container import ContainerCreate
from quilt_fn.states import ContainerState as State
from runtime.containers.api import Attached, Containers, LiveContainer
from runtime.containers.ends import KILLED

log = logging.getLogger(__name__)

SETTLED = (State.CREATED, State.RUNNING, State.PAUSED, State.EXITED, State.ERROR)


class Lifecycle:
    """`attachments(tenant_id, volumes)` says what is to be mounted, at each start anew; it may raise."""

    def __init__(
        self, registry: ContainerRegistry, runtime: Containers, logs: Path, clock: Clock,
        attachments: Callable[[str, builtins.list[str]], tuple[Attached, ...]], own: OwnWork,
    ) -> None:  # fmt: skip
        self._registry = registry
        self._runtime = runtime
        self._logs = logs
        self._clock = clock
        self._attachments = attachments
        self._own = own
        self._commands = MainCommands(registry, runtime, clock, self.log_folder, own)
        self._reasons: dict[str, str] = {}
        """Why an init has ended, until it is written down."""
        self._unwanted: set[str] = set()
        """Those whose create failed, and which are to go as soon as that can be done."""
        self._restarting: set[str] = set()
        self._frozen: set[str] = set()
        """Those that may be frozen, running as they are by their record: a pause failed, and so did its undoing."""
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
            self._commands.container_started(entry.container_id)
            await self._commands.attend(entry, live, start_command=True)
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
            self._frozen.add(entry.container_id)
            try:
                await self._thaw(entry)
            except QuiltError as second:
                log.warning("container %s may be frozen for now: %s", entry.name, second.message)
            raise

    async def _thaw(self, entry: ContainerEntry) -> None:
        if entry.state is State.RUNNING and self._runtime.get(entry.container_id) is not None:
            await self._runtime.resume(entry.container_id)
        self._frozen.discard(entry.container_id)

    async def resume(self, entry: ContainerEntry) -> None:
        """From paused."""
        await self._runtime.resume(entry.container_id)
        live = self._runtime.get(entry.container_id)
        if live is not None:
            await self._commands.attend(entry, live, start_command=False)
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
        self._commands.forget(entry.container_id)
        self._reasons.pop(entry.container_id, None)
        self._frozen.discard(entry.container_id)

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
            self._bring_back(entry)
        elif entry.state is State.STOPPING:
            await self._runtime.stop(entry.container_id, 0)
            await self._ended(entry, "killed")
            self._bring_back(entry)
        elif entry.state is State.DELETING:
            await self.delete(entry)
        if entry.container_id in self._frozen:
            await self._thaw(entry)
        if entry.container_id in self._unwanted:
            if entry.state is not State.DELETED:
                await self.delete(entry)
            self._unwanted.discard(entry.container_id)

    async def _started_by_another(self, entry: ContainerEntry, live: LiveContainer) -> None:
        """An earlier node broke off between its start and what follows."""
        try:
            await self._commands.attend(entry, live, start_command=True)
        except InvalidValue as error:  # what its user asked for can't be had, however often it is tried
            await self._not_started(entry, error.message)
        else:
            await self._registry.move(entry, State.RUNNING)

    def unsettled(self, entry: ContainerEntry) -> bool:
        """Whether `settle` has something to do. Nobody is at it where its lock is free."""
        if entry.state not in SETTLED or entry.container_id in self._unwanted or entry.container_id in self._frozen:
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
            self._bring_back(entry)
            return
        # What was paused, resumed or resized when the last node died is made what its record says.
        self._commands.container_adopted(entry.container_id)
        await self._limit_as_recorded(entry)
        if before is State.PAUSED:
            await self._runtime.pause(entry.container_id)
            return
        await self._runtime.resume(entry.container_id)
        await self.settle(entry)
        if before is State.RUNNING:
            await self._commands.attend(entry, live, start_command=False)

    async def _limit_as_recorded(self, entry: ContainerEntry) -> None:
        try:
            await self._runtime.resize(entry.container_id, *_limits(entry.spec))
        except InvalidValue as error:
            # It grew under a larger limit that was never answered: that one stays until the container ends.
            log.warning("container %s keeps larger limits than it should: %s", entry.name, error.message)

    # --- what happens by itself -----------------------------------------------------------------------------------

    def is_silent(self, entry: ContainerEntry) -> bool:
        """Whether its command has ended, or there is none, and nothing but its user starts it again."""
        if self._own.returns(entry.container_id):
            return False
        if entry.state in (State.RUNNING, State.PAUSED):
            return not entry.command_running
        return entry.state in (State.EXITED, State.ERROR, State.DELETED)

    def _init_gone(self, container_id: str, reason: str) -> None:
        entry = self._registry.known(container_id)
        if entry is not None:
            self._reasons[container_id] = reason
            self._own.begin_return(container_id, self._after_init(entry), "after the init")

    async def _after_init(self, entry: ContainerEntry) -> None:
        async with entry.lock:
            if entry.state in (State.RUNNING, State.PAUSED) and self._runtime.get(entry.container_id) is None:
                await self.settle(entry)
            self._reasons.pop(entry.container_id, None)

    def _bring_back(self, entry: ContainerEntry) -> None:
        """Start it again, where it is to come back and nothing is at it yet."""
        ctr, kept = entry.container_id, entry.kept
        wanted = entry.state is State.EXITED and kept.wanted and policy.comes_back(entry.spec.restart, kept.exit_reason)
        if wanted and ctr not in self._restarting:
            self._restarting.add(ctr)
            self._own.begin_return(ctr, self._restart(entry), "start again")

    async def _restart(self, entry: ContainerEntry) -> None:
        """Until it runs, or somebody has stopped or deleted it."""
        try:
            await self._try_restarts(entry)
        finally:
            self._restarting.discard(entry.container_id)

    async def _try_restarts(self, entry: ContainerEntry) -> None:
        while (pause := self._commands.pause(entry, KILLED)) is not None:
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

    # --- files of its output --------------------------------------------------------------------------------------

    def log_folder(self, container_id: str) -> Path:
        """Where its command's output is kept."""
        return self._logs / container_id

    def remove_old_logs(self) -> None:
        """The output of containers that are no more. Blocks."""
        for folder in self._logs.iterdir() if self._logs.is_dir() else ():
            if self._registry.known(folder.name) is None:
                _remove_logs(folder)


def _limits(spec: ContainerCreate) -> tuple[int, int, int]:
    return spec.memory_limit_mb, spec.cpu_limit_percent, spec.pids_limit


def _remove_logs(folder: Path) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        path.unlink(missing_ok=True)
    if folder.is_dir():
        folder.rmdir()
