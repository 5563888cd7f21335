"""What the pool sees of one node's containers: specs in, live containers out. Interfaces and values only, no I/O.

Not here: records, names, restart policy, quotas (`pool.containers`); how a sandbox is made (`runtime.spawner`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from runtime.containers.ends import MemoryKills


@dataclass(frozen=True, slots=True)
class Attached:
    """A volume at a place in a container. `target` is absolute and was checked by `pool.containers.targets`."""

    volume_id: str
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """Everything that a start needs. The writable layer below `container_id` outlives stops and restarts."""

    tenant_id: str
    container_id: str
    hostname: str
    image: str = "host"
    memory_mb: int = 512
    cpu_percent: int = 100
    pids: int = 512
    network: str = "bridge"
    strict: bool = False
    attached: tuple[Attached, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """A command for init to start. Without `tty` its stdin, stdout and stderr are pipes.

    `user` is `name`, `uid`, `name:group` or `uid:gid`; None is the container's root.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    working_directory: str = "/"
    user: str | None = None
    tty: tuple[int, int] | None = None
    """(columns, rows) of a pseudo-terminal instead of pipes."""


class CommandNotStarted(Exception):
    """A command that init could not start, told as a shell tells it: `exit_code` 127 where it is not there, 126 where
    it can't be executed, 125 where its user or folder is not there or the container has no room for a process.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class InitStatus:
    """What a container's init says of itself. `main_exit` is an exit code, 128 + signal where one ended it; `others`
    whether anything but init runs.
    """

    main_pid: int | None
    main_exit: int | None
    others: bool


class Process(Protocol):
    """A command that runs in a container. `pid` is the container's own number.

    The descriptors are non-blocking and the caller's to close; closing `stdin` is the command's end of file. With a tty
    `stdin` and `stdout` are one descriptor, the terminal's outer side, and `stderr` is None. `wait` may be awaited by
    several, and again after the end. The command's own children are not waited for: they may hold stdout open.
    """

    pid: int
    stdin: int
    stdout: int
    stderr: int | None

    @property
    def frozen(self) -> bool:
        """Its container is paused: signals arrive when it is resumed, and the end comes no sooner."""
        ...

    async def wait(self) -> int:
        """The exit code; 128 + signal where one ended it. Raises ContainerNotRunning when the container ended first."""
        ...

    async def kill(self, signal: int) -> None:
        """To the command's process group. Nothing happens where it has ended. Where it is frozen, nobody answers."""
        ...

    def resize(self, columns: int, rows: int) -> None:
        """Of a tty. Nothing happens where there is none."""
        ...


class InitLink(Protocol):
    """The connection to one container's init, which starts commands and reports their ends. `runtime.containers.link`.

    It survives nothing: when it is lost (init ended, or the node did), `on_lost` is called once; a new one is made on a
    new connection from the spawner's `connect`. Commands started over a lost link go on, but nobody hears of their end.
    All methods raise ContainerNotRunning once the link is lost, and Unavailable when init does not answer in time.
    """

    on_lost: Callable[[], None]
    on_main_exit: Callable[[int], None]
    frozen: bool
    """Whether the container is paused. Init then answers when it is resumed."""

    async def status(self, timeout_s: float = 2.0) -> InitStatus: ...

    async def set_log(self, files: tuple[int, int] | None, limit_bytes: int = 0) -> None:
        """Give init the two files between which it rotates the main command's output (`runtime.containers.log`); None
        takes them back, and the command waits once its pipe is full.
        """
        ...

    async def start_main(self, command: Command) -> int:
        """Start the container's own command; its pid in there. Its output goes to the log. Raises Conflict while one
        runs, CommandNotStarted.
        """
        ...

    async def run(self, command: Command) -> Process:
        """Start a command. Raises CommandNotStarted."""
        ...

    async def make_folder(self, path: str) -> None:
        """With those above it, by the container's root, where it is not there. Raises CommandNotStarted, where it is
        no folder or can't be made.
        """
        ...

    async def kill(self, pid: int, signal: int) -> None:
        """One process of the container by its own number; -1 for all of them but init. Raises NotFound."""
        ...

    def close(self) -> None: ...


class LiveContainer(Protocol):
    """A container that runs on this node. `link` is None while the connection is being made anew."""

    container_id: str
    tenant_id: str
    pid: int
    """Of its init, as this machine counts."""
    address: str | None
    started_at: float
    memory: MemoryKills
    on_main_exit: Callable[[int], None]

    @property
    def link(self) -> InitLink | None: ...


class Containers(Protocol):
    """One node's containers. Calls for one container must not overlap: the pool holds a lock for each."""

    def get(self, container_id: str) -> LiveContainer | None:
        """The live container, without I/O; None where it does not run here."""
        ...

    async def start(self, spec: ContainerSpec) -> LiveContainer:
        """Make its sandbox on its writable layer (made at the first start) and connect to its init.

        Raises ImageNotFound, VolumeNotFound, SpawnerError; what was half made is gone then, but the writable layer.
        """
        ...

    async def stop(self, container_id: str, timeout_s: float) -> None:
        """SIGTERM to all, `timeout_s`, SIGKILL; then cgroup, network and mounts go. The writable layer stays.
        Idempotent.
        """
        ...

    async def delete(self, container_id: str) -> None:
        """Kill it where it runs, and remove all of it, writable layer included. Idempotent."""
        ...

    async def pause(self, container_id: str) -> None: ...

    async def resume(self, container_id: str) -> None: ...

    async def resize(self, container_id: str, memory_mb: int, cpu_percent: int, pids: int) -> None:
        """Change the limits in force."""
        ...

    async def adopt(self, tenant_ids: Mapping[str, str]) -> dict[str, str]:
        """At start: connect again to what runs of `tenant_ids` (container id → tenant id). Every other is stopped, and
        its files stay: it is in no record, which only lost records explain. Why those that do not run have ended, by
        id: as `on_gone` says it, or `platform_ended` where nothing was left of them.
        """
        ...

    async def usage(self, container_id: str) -> dict[str, Any]:
        """{memory_bytes, memory_peak_bytes, cpu_seconds, pids, oom_kills}. Raises ContainerNotRunning."""
        ...

    async def processes(self, container_id: str) -> list[dict[str, Any]]:
        """{pid, ppid, user, state, command, memory_bytes, started_ticks} of each, by the container's own pids."""
        ...

    def has_image(self, name: str) -> bool:
        """Whether a container of that image can be started now. No I/O."""
        ...

    async def unpack(self, container_id: str, path: str, strip: int, body: AsyncIterator[bytes]) -> tuple[int, int]:
        """Unpack a tar or tar.gz below `path` of one that runs: (entries, bytes). As runtime.volumes.api says.

        `path` as it was given: it is taken from the root, with a slash before it or without.
        """
        ...

    def pack(self, container_id: str, path: str, *, zipped: bool) -> AsyncIterator[bytes]:
        """What is at `path` of one that runs as a tar (tar.gz)."""
        ...

    def on_gone(self, callback: Callable[[str, str], None]) -> None:
        """`callback(container_id, reason)` when a container's init ended by itself: `out_of_memory` or `init_died`."""
        ...
