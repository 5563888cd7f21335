"""Containers in memory: they start and stop at once, and their commands end when the test says so.

containers = FakeContainers()
containers.fail_starts = SpawnerError("no room")   # the next starts raise it, until it is None again
containers.hold = asyncio.Event()                  # starts wait for it
containers.get(ctr).end_main(3)                    # the container's own command ends
containers.die(ctr, "init_died")                   # its init ends by itself
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from quilt_fn.errors import Conflict, ContainerNotRunning, FileNotThere, NotFound, QuiltError
from runtime.containers.api import (
    Command,
    CommandNotStarted,
    Containers,
    ContainerSpec,
    InitStatus,
    LiveContainer,
    Process,
)
from runtime.containers.ends import MemoryKills


class FakeLink:
    def __init__(self, live: FakeLive) -> None:
        self.live = live
        self.log: tuple[int, int] | None = None
        self.on_lost: Callable[[], None] = lambda: None
        self.on_main_exit: Callable[[int], None] = lambda _code: None
        self.frozen = False

    async def status(self, timeout_s: float = 2.0) -> InitStatus:
        return InitStatus(self.live.main_pid, self.live.main_exit, self.live.main_pid is not None)

    async def set_log(self, files: tuple[int, int] | None, limit_bytes: int = 0) -> None:
        self.log = files

    async def start_main(self, command: Command) -> int:
        if self.live.main_pid is not None and self.live.main_exit is None:
            raise Conflict("the container's command runs already")
        if command.argv[0] == "missing":
            raise CommandNotStarted("missing: No such file or directory", 127)
        self.live.mains.append(command)
        self.live.main_pid, self.live.main_exit = 20 + len(self.live.mains), None
        return self.live.main_pid

    async def make_folder(self, path: str) -> None:
        self.live.folders.append(path)
        if path.startswith("/etc/passwd/"):
            raise CommandNotStarted(f"working directory {path}: Not a directory", 125)

    async def run(self, command: Command) -> Process:
        raise CommandNotStarted(f"{command.argv[0]}: No such file or directory", 127)

    async def kill(self, pid: int, signal: int) -> None:
        if pid not in (-1, self.live.main_pid):
            raise NotFound(f"no process {pid} runs in this container")

    def close(self) -> None: ...


class FakeLive:
    def __init__(self, spec: ContainerSpec, pid: int, address: str | None, memory: MemoryKills) -> None:
        self.spec = spec
        self.container_id, self.tenant_id = spec.container_id, spec.tenant_id
        self.pid, self.address, self.started_at = pid, address, time.time()
        self.memory = memory
        self.link: FakeLink | None = FakeLink(self)
        self.on_main_exit: Callable[[int], None] = lambda _code: None
        self.mains: list[Command] = []
        self.folders: list[str] = []
        self.main_pid: int | None = None
        self.main_exit: int | None = None

    def end_main(self, code: int) -> None:
        self.main_exit = code
        self.on_main_exit(code)


class FakeContainers:
    """See the file's head. `asked` is what was asked, in order: `start ctr_…`."""

    def __init__(self) -> None:
        self.live: dict[str, FakeLive] = {}
        self.layers: set[str] = set()
        self.asked: list[str] = []
        self.fail_starts: QuiltError | None = None
        self.hold: asyncio.Event | None = None
        self.oom_kills = 0
        self.limits: dict[str, tuple[int, int, int]] = {}
        """What the last resize of each set, in MB, percent and processes."""
        self.tars: dict[str, bytes] = {}
        """What `pack` gives, by path."""
        self.unpacked: dict[str, bytes] = {}
        """What `unpack` took last, by path."""
        self.ended: dict[str, str] = {}
        """Why an init has ended, for the next node that asks."""
        self._gone: list[Callable[[str, str], None]] = []
        self._pids = itertools.count(1000)

    def get(self, container_id: str) -> FakeLive | None:
        return self.live.get(container_id)

    def has_image(self, name: str) -> bool:
        return name == "host"

    def on_gone(self, callback: Callable[[str, str], None]) -> None:
        self._gone.append(callback)

    async def unpack(self, container_id: str, path: str, strip: int, body: AsyncIterator[bytes]) -> tuple[int, int]:
        self.asked.append(f"unpack {container_id} {path}")
        path, content = _inside(path), b"".join([piece async for piece in body])
        self.unpacked[path] = content
        return 1, len(content)

    async def pack(self, container_id: str, path: str, *, zipped: bool) -> AsyncIterator[bytes]:
        self.asked.append(f"pack {container_id} {path}")
        if _inside(path) not in self.tars:
            raise FileNotThere(f"{path!r} is not there")
        yield self.tars[_inside(path)]

    async def start(self, spec: ContainerSpec) -> FakeLive:
        self.asked.append(f"start {spec.container_id}")
        if self.hold is not None:
            await self.hold.wait()
        if self.fail_starts is not None:
            raise self.fail_starts
        self.layers.add(spec.container_id)
        address = None if spec.network == "none" else "127.0.0.1"
        live = FakeLive(spec, next(self._pids), address, MemoryKills(lambda: self.oom_kills))
        self.live[spec.container_id] = live
        return live

    async def stop(self, container_id: str, timeout_s: float) -> None:
        self.asked.append(f"stop {container_id}")
        self.live.pop(container_id, None)

    async def delete(self, container_id: str) -> None:
        self.asked.append(f"delete {container_id}")
        self.live.pop(container_id, None)
        self.layers.discard(container_id)

    async def pause(self, container_id: str) -> None:
        self._living(container_id)

    async def resume(self, container_id: str) -> None:
        self._living(container_id)

    async def resize(self, container_id: str, memory_mb: int, cpu_percent: int, pids: int) -> None:
        self.limits[container_id] = memory_mb, cpu_percent, pids
        self._living(container_id)

    async def usage(self, container_id: str) -> dict[str, Any]:
        self._living(container_id)
        return {"memory_bytes": 1 << 20, "memory_peak_bytes": 2 << 20, "cpu_seconds": 0.1, "pids": 1,
                "oom_kills": self.oom_kills}  # fmt: skip

    async def processes(self, container_id: str) -> list[dict[str, Any]]:
        self._living(container_id)
        return [
            {
                "pid": 1,
                "ppid": 0,
                "user": 0,
                "state": "S",
                "command": "quilt-init",
                "memory_bytes": 1,
                "started_ticks": 1,
            }
        ]

    async def adopt(self, tenant_ids: Mapping[str, str]) -> dict[str, str]:
        for container_id in list(self.live):
            if container_id not in tenant_ids:
                await self.stop(container_id, 0)
        return {ctr: self.ended.get(ctr, "platform_ended") for ctr in tenant_ids if ctr not in self.live}

    def die(self, container_id: str, reason: str) -> None:
        del self.live[container_id]
        for callback in self._gone:
            callback(container_id, reason)

    def _living(self, container_id: str) -> FakeLive:
        if container_id not in self.live:
            raise ContainerNotRunning("the container does not run", details={"state": "exited"})
        return self.live[container_id]


def _inside(path: str) -> str:
    """From the root."""
    return path.lstrip("/") or "."


if TYPE_CHECKING:

    def _are_containers(fake: FakeContainers, live: FakeLive) -> tuple[Containers, LiveContainer]:
        return fake, live
