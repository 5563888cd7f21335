"""A container's own command: what starts it, how its end is known, and whether it is started again.

The lock of the container is held by who starts it; its end happens by itself, and what follows takes the lock. Not
here: the container around it (`lifecycle`), and which decision is right (`policy`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

from pool.clock import Clock, iso
from pool.containers import policy
from pool.containers.entry import ContainerEntry, main_command
from pool.containers.own_work import OwnWork
from pool.containers.registry import ContainerRegistry
from quilt_fn.errors import ContainerNotRunning, InvalidValue, RegistryUnavailable
from quilt_fn.states import ContainerState as State
from runtime.containers.api import CommandNotStarted, Containers, InitLink, LiveContainer
from runtime.containers.ends import KILLED, exit_reason
from runtime.containers.log import FILE_LIMIT_BYTES, open_files

log = logging.getLogger(__name__)

WRITE_AGAIN_S = 1.0


class MainCommands:
    """The own commands of all containers of this node. `log_folder(container_id)`: where output is kept."""

    def __init__(
        self, registry: ContainerRegistry, runtime: Containers, clock: Clock, log_folder: Callable[[str], Path],
        own: OwnWork,
    ) -> None:  # fmt: skip
        self._registry = registry
        self._runtime = runtime
        self._clock = clock
        self._log_folder = log_folder
        self._own = own
        self._up_since: dict[str, float] = {}
        self._in_a_row: dict[str, int] = {}
        self._kills_before: dict[str, int] = {}
        """What the kernel had killed for memory in a container when its command began."""

    def container_started(self, container_id: str) -> None:
        """Anew, so that the kernel has killed nothing in it yet."""
        self._kills_before[container_id] = 0
        self._up_since[container_id] = self._clock.now()

    def container_adopted(self, container_id: str) -> None:
        """From an earlier node: how long it has run isn't known."""
        self._up_since[container_id] = self._clock.now()

    def forget(self, container_id: str) -> None:
        """Idempotent."""
        for table in (self._up_since, self._in_a_row, self._kills_before):
            table.pop(container_id, None)

    async def attend(self, entry: ContainerEntry, live: LiveContainer, *, start_command: bool) -> None:
        """Give init the files for its command's output, and start the command, or see how it stands."""
        live.on_main_exit = lambda code: self._ended(entry, code)
        if not start_command:  # as recorded, should init not answer below
            entry.command_running = entry.spec.command is not None and entry.kept.exit_code is None
        link = live.link
        if link is None:
            raise ContainerNotRunning("the container's init does not answer", details={"state": entry.state})
        files = await asyncio.to_thread(open_files, self._log_folder(entry.container_id))
        try:
            await link.set_log(files, FILE_LIMIT_BYTES)
        finally:
            for fd in files:
                os.close(fd)
        seen = await link.status()
        if seen.main_pid is None:
            if start_command:
                await _make_folder(link, entry.spec.working_directory)
                await self._start(entry, live)
        elif seen.main_exit is None:
            entry.command_running = True
            self._kills_before.setdefault(entry.container_id, live.memory.seen())
        else:  # while nobody listened, or before: it may have to come back
            entry.command_running = True
            self._ended(entry, seen.main_exit)

    async def _start(self, entry: ContainerEntry, live: LiveContainer) -> None:
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

    def _ended(self, entry: ContainerEntry, code: int) -> None:
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
        self._own.begin_return(entry.container_id, self._after_command(entry, code), "after the command")

    async def _after_command(self, entry: ContainerEntry, code: int) -> None:
        """Whether the registry is there or not: what it doesn't take now is written when it is back."""
        written = await self._write(entry)
        pause = self.pause(entry, code)
        if pause is not None:
            await asyncio.sleep(pause)
            async with entry.lock:
                live = self._runtime.get(entry.container_id)
                if entry.state is State.RUNNING and live is not None and not entry.command_running:
                    entry.kept.restart_count += 1
                    await self._start(entry, live)
                    written = await self._write(entry)
        while not written:
            await asyncio.sleep(WRITE_AGAIN_S)
            written = await self._write(entry)

    async def _write(self, entry: ContainerEntry) -> bool:
        """False where the registry is away. Of one that has ended, its own end was written, with all of this."""
        if entry.state in (State.RUNNING, State.PAUSED):
            try:
                await self._registry.move(entry, None)
            except RegistryUnavailable as error:
                log.warning("container %s: how its command stands is not written yet: %s", entry.name, error.message)
                return False
        return True

    def pause(self, entry: ContainerEntry, code: int) -> float | None:
        """Before it, or its container, is started again, in seconds; None where nothing starts it again."""
        ctr = entry.container_id
        ran_s = self._clock.now() - self._up_since.get(ctr, self._clock.now())
        before = 0 if ran_s >= policy.STEADY_S else self._in_a_row.get(ctr, 0)
        self._in_a_row[ctr] = before + 1
        return policy.pause_before_restart(entry.spec.restart, code, before, ran_s)


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
