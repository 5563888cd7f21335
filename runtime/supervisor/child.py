"""One child of the supervisor through its lives: started, ready, dead, started again after a pause, stopped at the end.

Not here: which children there are (`commands`) and their order (`run`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from quilt_fn.errors import Unavailable
from runtime.supervisor.commands import Command
from runtime.supervisor.log import Log
from runtime.supervisor.output import Lines
from runtime.supervisor.processes import start_ticks

BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 5.0
HEALTHY_AFTER_S = 10.0
READY_POLL_S = 0.02
LAST_LINES = 20
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


class ChildState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"
    STOPPED = "stopped"


class NotReady(Exception):
    """A child ended, or its time was up, before it was ready; says which."""


@dataclass(slots=True)
class Child:
    """A command that is kept running. `keep` is its whole life; `changed` is called after each change of state."""

    command: Command
    log: Log
    changed: Callable[[], None]
    state: ChildState = ChildState.STOPPED
    pid: int | None = None
    started: int | None = None
    """Start time in the kernel's ticks: with the pid it names the process for good."""
    restarts: int = 0
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _hurry: asyncio.Event = field(default_factory=asyncio.Event)
    _first: asyncio.Event = field(default_factory=asyncio.Event)
    _output: Lines | None = None

    async def keep(self) -> None:
        """Start it, bring it back whenever it ends, until `stop`. Raises Unavailable where the first start failed."""
        pause = BACKOFF_FIRST_S
        while not self._stopping.is_set():
            healthy_s = await self._live()
            if self._stopping.is_set():
                break
            if not self._first.is_set():
                raise self._first_start_failed()
            if healthy_s >= HEALTHY_AFTER_S:
                pause = BACKOFF_FIRST_S
            self._enter(ChildState.BACKOFF, f"starts again in {pause:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(2 * pause, BACKOFF_MOST_S)
            self.restarts += 1
        self._enter(ChildState.STOPPED, None)

    async def first_ready(self) -> None:
        await self._first.wait()

    def stop(self, hurry: bool = False) -> None:
        """Ask it to end; `keep` returns when it has. `hurry` does not wait for it to do so by itself."""
        self._stopping.set()
        if hurry:
            self._hurry.set()

    def _first_start_failed(self) -> Unavailable:
        said = "\n".join(f"  {line}" for line in self.last_lines)
        return Unavailable(
            f"{self.command.name} could not be started" + (f"; its last words:\n{said}" if said else ""),
            hint="`quilt doctor` says what this machine lacks",
        )

    def _enter(self, state: ChildState, text: str | None) -> None:
        self.state = state
        if text:
            self.log.line("supervisor", f"{self.command.name}: {text}")
        self.changed()

    async def _live(self) -> float:
        """One life, from start to end: for how many seconds it was ready."""
        ready_r, ready_w = os.pipe2(os.O_CLOEXEC)
        try:
            process = self._start(ready_w)
        except OSError as error:
            os.close(ready_r)
            self.last_lines.append(f"{self.command.argv[0]}: {error.strerror}")
            self._enter(ChildState.STARTING, f"cannot be started: {error}")
            return 0.0
        finally:
            os.close(ready_w)
        self.pid, self.started = process.pid, start_ticks(process.pid)
        self._enter(ChildState.STARTING, None)
        pidfd = os.pidfd_open(process.pid)
        ready_at: float | None = None
        try:
            ended = asyncio.create_task(readable(pidfd))
            stopping = asyncio.create_task(self._stopping.wait())
            try:
                try:
                    await self._until_ready(ready_r, ended, stopping)
                    ready_at = time.monotonic()
                    if not self._stopping.is_set():
                        self._first.set()
                        self._enter(ChildState.READY, f"ready (pid {process.pid})")
                        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
                except NotReady as reason:
                    self.log.line("supervisor", f"{self.command.name}: {reason}")
                await self._end(process, pidfd, ended)
            finally:
                for task in (ended, stopping):
                    task.cancel()
                await asyncio.gather(ended, stopping, return_exceptions=True)
        finally:
            os.close(pidfd)
            os.close(ready_r)
            self.pid = self.started = None
        code = process.wait()
        if self._output is not None:
            self._output.close()
        if not self._stopping.is_set():
            self.log.line("supervisor", f"{self.command.name}: {ending(code)}")
        return time.monotonic() - ready_at if ready_at is not None else 0.0

    def _start(self, ready_w: int) -> subprocess.Popen[bytes]:
        command = self.command
        parent = os.getpid()

        def bind_to_parent() -> None:
            # After setuid, which would undo it. Should the supervisor be killed, its children end by themselves.
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

        process = subprocess.Popen(
            command.argv,
            cwd="/",
            env={**command.environment, "QUILT_READY_FD": str(ready_w)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(ready_w,),
            start_new_session=True,  # Ctrl-C is for the supervisor, which ends its children in order
            user=command.user.uid if command.user else None,
            group=command.user.gid if command.user else None,
            extra_groups=[] if command.user else None,
            preexec_fn=bind_to_parent,  # safe: this process has one thread
            umask=0o022,
        )
        assert process.stdout is not None
        self._output = Lines(process.stdout, self._line)
        return process

    def _line(self, text: str) -> None:
        self.last_lines.append(text)
        self.log.line(self.command.name, text)

    async def _until_ready(self, ready_r: int, ended: asyncio.Task[None], stopping: asyncio.Task[bool]) -> None:
        """Return when the child is ready or we are stopping. Raises NotReady."""
        said = asyncio.create_task(readable(ready_r) if self.command.ready is None else poll(self.command.ready))
        try:
            await asyncio.wait(
                {said, ended, stopping}, timeout=self.command.ready_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if stopping.done() or (said.done() and self._is_ready(ready_r)):
                return
            if ended.done() or said.done():
                raise NotReady("ended before it was ready")
            raise NotReady(f"not ready after {self.command.ready_seconds:g} s")
        finally:
            said.cancel()
            await asyncio.gather(said, return_exceptions=True)

    def _is_ready(self, ready_r: int) -> bool:
        # End of file instead of a line: it ended, or it closed the descriptor without keeping its part.
        return self.command.ready is not None or os.read(ready_r, 64).startswith(b"ready")

    async def _end(self, process: subprocess.Popen[bytes], pidfd: int, ended: asyncio.Task[None]) -> None:
        """Make sure that it has ended: it is asked, and killed when its time is up."""
        if ended.done():
            return
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        hurry = asyncio.create_task(self._hurry.wait())
        try:
            await asyncio.wait({ended, hurry}, timeout=self.command.stop_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurry.cancel()
            await asyncio.gather(hurry, return_exceptions=True)
        if not ended.done():
            self.log.line("supervisor", f"{self.command.name}: does not end by itself, killed")
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await ended


async def readable(fd: int) -> None:
    """Wait until `fd` can be read: a pidfd when its process has ended, a pipe when it has data or is closed."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(fd, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(fd)


async def poll(ready: Callable[[], bool]) -> None:
    # Nothing tells when a program that is not ours can be used; it has to be asked.
    while not ready():  # noqa: ASYNC110
        await asyncio.sleep(READY_POLL_S)


def ending(code: int) -> str:
    """How a process ended, in words; `code` as subprocess gives it."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
