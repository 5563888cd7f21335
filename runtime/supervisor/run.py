"""`quilt up` itself: the state folder held, folders made, children started in order, kept, and stopped in reverse.

      started    redis → spawner → node      each when the one before it is ready; a first start that fails ends it all
      running    whichever dies comes back by itself, in any order; the others wait for it as they do for each other
      stopped    node → spawner → redis      each gets its time, then it is killed; then the run folder goes

Not here: how one child lives (`child`), and starting all this in the background (`control`).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quilt_fn.errors import Conflict, InvalidValue, Unavailable
from quilt_fn.settings import Settings
from runtime.doctor import NodeUser, node_user
from runtime.supervisor import folders, lock, processes
from runtime.supervisor.child import Child
from runtime.supervisor.commands import Command, Plan, real_plan
from runtime.supervisor.credentials import kept_when_up
from runtime.supervisor.log import Log

STATUS = "status.json"


@dataclass(frozen=True, slots=True)
class Up:
    """What is announced when the platform answers."""

    url: str
    pid: int
    key_file: str | None
    """Where the first key is kept; None where QUILT_API_KEY gave it."""
    warning: str | None

    def as_json(self) -> dict[str, Any]:
        return {"url": self.url, "pid": self.pid, "key_file": self.key_file, "warning": self.warning}


def up(settings: Settings, log: Log, announce: Callable[[Up], None], plan: Plan = real_plan) -> None:
    """Run the platform until SIGTERM or SIGINT. Raises PlatformHeld, InvalidValue, Conflict (the port), Unavailable."""
    if os.geteuid() != 0:
        raise Unavailable("`quilt up` needs root: only root can make the sandboxes", hint="sudo quilt up")
    settings = replace(settings, state_dir=str(Path(settings.state_dir).absolute()))
    folders.make_state(settings)
    with lock.hold(settings):
        end_leftovers(settings, log)
        check_port(settings)
        user = node_user(settings)
        warning = None
        if isinstance(user, str):
            warning = f"the node process and Redis run as root: {user}"
            log.line("supervisor", f"WARNING: {warning}")
        owner = None if isinstance(user, str) else user
        folders.make(settings, owner or NodeUser(os.geteuid(), os.getegid()))
        try:
            with kept_when_up(settings) as (first, keep):
                children = plan(settings, owner, first.key)
                ready = Up(settings.base_url, os.getpid(), str(first.file) if first.file else None, warning)

                def is_up() -> None:
                    keep()
                    announce(ready)

                asyncio.run(Supervisor(settings, children, log).run(is_up))
        finally:
            folders.clear_run(settings)


def end_leftovers(settings: Settings, log: Log) -> None:
    """End what a supervisor that was killed left behind: the kernel told its children, but they may take their time."""
    for name, pid, started, patience_s in reversed(recorded_children(settings)):
        if processes.is_alive(pid, started):
            log.line("supervisor", f"{name} (pid {pid}) of an earlier supervisor is still there: waiting for its end")
            processes.end(pid, started, patience_s)


def recorded_children(settings: Settings) -> list[tuple[str, int, int | None, float]]:
    """(name, pid, start time, seconds to end in) of the children that the last supervisor of this platform had."""
    try:
        content = json.loads((settings.run_path / STATUS).read_text())
    except FileNotFoundError:
        return []
    children = [child for child in content["children"] if child["pid"]]
    return [(child["name"], child["pid"], child["started"], child["stop_seconds"]) for child in children]


def check_port(settings: Settings) -> None:
    """Raise where the node could not listen: said here it is one clear line instead of a child that will not start."""
    try:
        places = socket.getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise InvalidValue(f"QUILT_HOST {settings.host!r} is no address of this machine: {error.strerror}") from error
    family, kind, protocol, _, address = places[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise Conflict(
                f"cannot listen on {settings.host} port {settings.port}: {error.strerror}",
                hint="set QUILT_PORT to another",
            ) from error


class Supervisor:
    """The children of one platform, from the first start to the last end. One `run` for each object."""

    def __init__(self, settings: Settings, commands: list[Command], log: Log) -> None:
        self._status = settings.run_path / STATUS
        self._log = log
        self._children = [Child(command, log, self._write_status) for command in commands]
        self._stop = asyncio.Event()

    async def run(self, announce: Callable[[], None]) -> None:
        """Start all, announce, keep until a signal, stop all. Raises Unavailable where a first start failed."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        tasks: list[tuple[Child, asyncio.Task[None]]] = []
        stop = asyncio.create_task(self._stop.wait())
        try:
            for child in self._children:
                task = asyncio.create_task(child.keep())
                tasks.append((child, task))
                await self._until_ready(child, task, stop)
            if not self._stop.is_set():
                announce()
                notify_manager("READY=1")
                await asyncio.wait({stop, *(task for _, task in tasks)}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            notify_manager("STOPPING=1")
            stop.cancel()
            for child, task in reversed(tasks):
                child.stop()
                await asyncio.wait({task})
            await asyncio.gather(stop, return_exceptions=True)
        for _, task in tasks:
            task.result()

    async def _until_ready(self, child: Child, task: asyncio.Task[None], stop: asyncio.Task[bool]) -> None:
        first = asyncio.create_task(child.first_ready())
        try:
            await asyncio.wait({first, task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stop.is_set():
            self._log.line("supervisor", f"{number.name} again: children are killed")
            for child in self._children:
                child.stop(hurry=True)
            return
        self._log.line("supervisor", f"{number.name}: stopping")
        self._stop.set()

    def _write_status(self) -> None:
        content = {
            "children": [
                {
                    "name": child.command.name,
                    "pid": child.pid,
                    "started": child.started,
                    "state": child.state.value,
                    "restarts": child.restarts,
                    "stop_seconds": child.command.stop_seconds,
                }
                for child in self._children
            ]
        }
        temporary = self._status.with_suffix(".new")
        temporary.write_text(json.dumps(content))
        temporary.replace(self._status)


def notify_manager(text: str) -> None:
    """Tell systemd, where it started us (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.sendall(text.encode())
