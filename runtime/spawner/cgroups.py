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

from runtime.spawner import kernel
from runtime.spawner.protocol import Refused

ROOT = Path("/sys/fs/cgroup")
SWAPS = Path("/proc/swaps")
"""What is swapped to; absent where the kernel was built without swap."""
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
        self.freezer = None if self.v2 else ROOT / "freezer" / self.folder
        """On v1 pausing needs a hierarchy of its own, which only groups that can be paused join."""

    def prepare(self) -> list[str]:
        """Make the platform's folder. Returns the controllers that are missing: their limits can't be enforced."""
        if not self.v2:
            for base in self._everywhere():
                base.mkdir(exist_ok=True)
            return [name for name in CONTROLLERS if not (ROOT / name / "tasks").exists()]
        _enable(ROOT)
        (ROOT / self.folder).mkdir(exist_ok=True)
        _enable(ROOT / self.folder)
        there = (ROOT / self.folder / "cgroup.controllers").read_text().split()
        return [name for name in CONTROLLERS if name not in there]

    def swap_unlimited(self) -> str | None:
        """Why limits of memory don't count swap here; None where they do, and where there can be no swap. After
        `prepare`.
        """
        if not SWAPS.exists():
            return None
        if self.v2:
            file = self.bases[0] / "memory.swap.max"
        else:
            file = ROOT / "memory" / self.folder / "memory.memsw.limit_in_bytes"
        try:
            os.close(os.open(file, os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            return f"swap can't be limited ({file.name}: {error.strerror}): what is over a memory limit may go there"
        return None

    def _everywhere(self) -> list[Path]:
        """Every folder of this platform, the freezer's too where it is mounted."""
        return [*self.bases, *([self.freezer] if self.freezer and self.freezer.parent.is_dir() else [])]

    def make(self, name: str, limits: Limits, *, freezer: bool = False) -> None:
        """The group `name` with its limits in force. Idempotent: other limits take the place of those before.

        With `freezer` it can be paused.
        """
        for base in self._everywhere() if freezer else self.bases:
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
                    _limit_memory_v1(group, memory)
                case "cpu":
                    _write(group / "cpu.cfs_period_us", CPU_PERIOD_US)
                    _write(group / "cpu.cfs_quota_us", limits.cpu_percent * CPU_PERIOD_US // 100)
                case "pids":
                    _write(group / "pids.max", limits.pids)

    def doors(self, name: str) -> list[int]:
        """Open files: a process that writes "0" into each of them is in the group `name`."""
        file = "cgroup.procs" if self.v2 else "tasks"
        groups = [base / name for base in self._everywhere()]
        return [os.open(group / file, os.O_WRONLY | os.O_CLOEXEC) for group in groups if group.is_dir()]

    def memory_gauge(self, name: str) -> int:
        """An open file that says the group's memory in bytes at each read from its start."""
        return self._memory_file(name, "memory.current" if self.v2 else "memory.usage_in_bytes")

    def memory_events(self, name: str) -> int:
        """An open file whose line `oom_kill` counts at each read how often the kernel has killed in the group."""
        return self._memory_file(name, "memory.events" if self.v2 else "memory.oom_control")

    def _memory_file(self, name: str, file: str) -> int:
        base = next(b for b in self.bases if self.v2 or b.parent.name == "memory")
        return os.open(base / name / file, os.O_RDONLY | os.O_CLOEXEC)

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

    def there(self, name: str) -> bool:
        return any((base / name).exists() for base in self.bases)

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
            if all(_gone(base / name) for base in self._everywhere()):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the cgroup {name} can't be removed; in it: {sorted(self.processes(name))}")
            time.sleep(0.0005)

    def freeze(self, name: str, frozen: bool, timeout_s: float = 5.0) -> None:
        """Let nothing in the group run any more, or let it go on. A group that is not there is thawed already.

        Raises Refused where this machine can't, TimeoutError.
        """
        file = self.bases[0] / name / "cgroup.freeze" if self.v2 else (self.freezer or ROOT) / name / "freezer.state"
        if not file.exists():
            if frozen:
                raise Refused("this machine has no cgroup freezer, so nothing can be paused on it", "failed")
            return
        _write(file, int(frozen) if self.v2 else ("FROZEN" if frozen else "THAWED"))
        deadline = time.monotonic() + timeout_s
        while frozen != self._is_frozen(name):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} could not be {'paused' if frozen else 'resumed'} within {timeout_s:g} s")
            time.sleep(0.001)

    def _is_frozen(self, name: str) -> bool:
        if self.v2:
            return "frozen 1" in (self.bases[0] / name / "cgroup.events").read_text()
        assert self.freezer is not None
        return (self.freezer / name / "freezer.state").read_text().strip() == "FROZEN"

    def usage(self, name: str) -> dict[str, float | int]:
        """{memory_bytes, memory_peak_bytes, cpu_seconds, pids, oom_kills} of a group that is there."""

        def read(controller: str, on_v2: str, on_v1: str) -> str:
            base = self.bases[0] if self.v2 else next(b for b in self.bases if b.parent.name == controller)
            path = base / name / (on_v2 if self.v2 else on_v1)
            return path.read_text() if path.exists() else "0"

        if self.v2:
            lines = (line.split() for line in read("cpu", "cpu.stat", "").splitlines())
            cpu = int(dict(lines)["usage_usec"]) / 1e6
        else:
            # cpuacct is a hierarchy of its own on some machines; where it is mounted with cpu it is the same folder.
            together = ROOT / "cpu" / self.folder / name / "cpuacct.usage"
            cpu = int(together.read_text()) / 1e9 if together.exists() else self._cpu_of_processes(name)
        return {
            "memory_bytes": int(read("memory", "memory.current", "memory.usage_in_bytes")),
            "memory_peak_bytes": int(read("memory", "memory.peak", "memory.max_usage_in_bytes")),
            "cpu_seconds": round(cpu, 3),
            "pids": int(read("pids", "pids.current", "pids.current")),
            "oom_kills": self.oom_kills(name),
        }

    def _cpu_of_processes(self, name: str) -> float:
        """The processor time of what runs now: all that can be had where cpuacct is not mounted with cpu."""
        ticks = 0
        for pid in self.processes(name):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                ticks += sum(int(word) for word in words[11:15])
        return ticks / os.sysconf("SC_CLK_TCK")

    def terminate(self, name: str, keep: set[int]) -> None:
        """SIGTERM to everything in the group but `keep`."""
        for pid in self.processes(name) - keep:
            _kill_in_group(pid, self, name, signal.SIGTERM)

    def names(self) -> set[str]:
        found: set[str] = set()
        for base in self._everywhere():
            if base.exists():
                found.update(entry.name for entry in base.iterdir() if entry.is_dir())
        return found

    def remove_platform(self) -> None:
        for base in self._everywhere():
            with contextlib.suppress(FileNotFoundError, OSError):
                base.rmdir()


def _kill_in_group(pid: int, groups: Cgroups, name: str, number: signal.Signals = signal.SIGKILL) -> None:
    """A pid can be used again: hold it by pidfd, look once more whether it is in the group, then kill."""
    try:
        pidfd = kernel.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if pid in groups.processes(name):
            signal.pidfd_send_signal(pidfd, number)
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


def _limit_memory_v1(group: Path, memory: int) -> None:
    """Memory with swap may never be less than memory alone, so that which of the two is written first depends."""
    swap = group / "memory.memsw.limit_in_bytes"
    if swap.exists() and int(swap.read_text()) < memory:
        _write_if_there(swap, memory)
    _write(group / "memory.limit_in_bytes", memory)
    _write_if_there(swap, memory)


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
    """For what not every machine has; of swap `swap_unlimited` says that it was not there."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        _write(path, value)
