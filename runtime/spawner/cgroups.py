"""Cgroups with limits, on v2 and on v1 (hybrid too). One group for each container and each instance, all below one
folder.

Not here: which limits (they come with the request) and who joins (a process writes "0" into a descriptor it is given,
which after an idle gap costs 0.03 ms on v1 where moving another process by its pid costs 7).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
CPU_PERIOD_US = 100_000
CONTROLLERS = ("memory", "cpu", "pids")


@dataclass(frozen=True, slots=True)
class Limits:
    memory_mb: int
    cpu_percent: int
    pids: int


class Cgroups:
    """The groups of one platform: `<hierarchy>/quilt-<platform>/<name>`."""

    def __init__(self, platform: str) -> None:
        self.folder = f"quilt-{platform}"
        self.v2 = (ROOT / "cgroup.controllers").exists()
        if self.v2:
            self.bases = [ROOT / self.folder]
        else:
            self.bases = [ROOT / name / self.folder for name in CONTROLLERS if (ROOT / name / "tasks").exists()]

    def prepare(self) -> list[str]:
        """Make the platform's folder. Returns the controllers that are missing: their limits can't be enforced."""
        if not self.v2:
            for base in self.bases:
                base.mkdir(exist_ok=True)
            return [name for name in CONTROLLERS if not (ROOT / name / "tasks").exists()]
        _enable(ROOT)
        (ROOT / self.folder).mkdir(exist_ok=True)
        _enable(ROOT / self.folder)
        there = (ROOT / self.folder / "cgroup.controllers").read_text().split()
        return [name for name in CONTROLLERS if name not in there]

    def make(self, name: str, limits: Limits) -> None:
        """The group `name` with its limits in force. Idempotent."""
        for base in self.bases:
            (base / name).mkdir(exist_ok=True)
        memory = limits.memory_mb << 20
        if self.v2:
            group = self.bases[0] / name
            _write(group / "memory.max", memory)
            _write_if_there(group / "memory.swap.max", 0)
            _write_if_there(group / "memory.oom.group", 0)
            _write(group / "cpu.max", f"{limits.cpu_percent * CPU_PERIOD_US // 100} {CPU_PERIOD_US}")
            _write(group / "pids.max", limits.pids)
            return
        for base in self.bases:
            group = base / name
            match base.parent.name:
                case "memory":
                    _write(group / "memory.limit_in_bytes", memory)
                    _write_if_there(group / "memory.memsw.limit_in_bytes", memory)
                case "cpu":
                    _write(group / "cpu.cfs_period_us", CPU_PERIOD_US)
                    _write(group / "cpu.cfs_quota_us", limits.cpu_percent * CPU_PERIOD_US // 100)
                case "pids":
                    _write(group / "pids.max", limits.pids)

    def doors(self, name: str) -> list[int]:
        """Open files: a process that writes "0" into each of them is in the group `name`."""
        file = "cgroup.procs" if self.v2 else "tasks"
        return [os.open(base / name / file, os.O_WRONLY | os.O_CLOEXEC) for base in self.bases]

    def memory_gauge(self, name: str) -> int:
        """An open file that says the group's memory in bytes at each read from its start."""
        base = next(b for b in self.bases if self.v2 or b.parent.name == "memory")
        return os.open(
            base / name / ("memory.current" if self.v2 else "memory.usage_in_bytes"), os.O_RDONLY | os.O_CLOEXEC
        )

    def join(self, name: str) -> None:
        """Move the calling process into the group."""
        for door in self.doors(name):
            os.write(door, b"0")
            os.close(door)

    def oom_kills(self, name: str) -> int:
        for base in self.bases:
            path = base / name / ("memory.events" if self.v2 else "memory.oom_control")
            with contextlib.suppress(FileNotFoundError):
                for line in path.read_text().splitlines():
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
        return 0

    def processes(self, name: str) -> set[int]:
        found: set[int] = set()
        for base in self.bases:
            with contextlib.suppress(FileNotFoundError, OSError):
                found.update(int(pid) for pid in (base / name / "cgroup.procs").read_text().split())
        return found

    def kill(self, name: str, timeout_s: float = 10.0) -> None:
        """SIGKILL everything in the group, until nothing is left. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        pause = 0.0002
        while pids := self.processes(name):
            with contextlib.suppress(FileNotFoundError):
                if self.v2:
                    _write(self.bases[0] / name / "cgroup.kill", 1)
            for pid in pids:
                _kill_in_group(pid, self, name)
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes of {name} do not die: {sorted(pids)}")
            time.sleep(pause)
            pause = min(pause * 2, 0.02)

    def remove(self, name: str, timeout_s: float = 10.0) -> None:
        """Kill everything in the group and remove it. Idempotent.

        Again and again: a process that was just being forked may join after the first look, and a dead one leaves its
        group a moment after its end. Raises TimeoutError.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self.kill(name, timeout_s)
            if all(_gone(base / name) for base in self.bases):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the cgroup {name} can't be removed; in it: {sorted(self.processes(name))}")
            time.sleep(0.0005)

    def names(self) -> set[str]:
        found: set[str] = set()
        for base in self.bases:
            if base.exists():
                found.update(entry.name for entry in base.iterdir() if entry.is_dir())
        return found

    def remove_platform(self) -> None:
        for base in self.bases:
            with contextlib.suppress(FileNotFoundError, OSError):
                base.rmdir()


def _kill_in_group(pid: int, groups: Cgroups, name: str) -> None:
    """A pid can be used again: hold it by pidfd, look once more whether it is in the group, then kill."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if pid in groups.processes(name):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def _gone(group: Path) -> bool:
    """Whether the group is away now."""
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _enable(folder: Path) -> None:
    there = (folder / "cgroup.controllers").read_text().split()
    for name in CONTROLLERS:
        if name in there:
            _write(folder / "cgroup.subtree_control", f"+{name}")


def _write(path: Path, value: object) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def _write_if_there(path: Path, value: object) -> None:
    with contextlib.suppress(FileNotFoundError, PermissionError):
        _write(path, value)
