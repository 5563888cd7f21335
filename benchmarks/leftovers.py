"""What a platform that has ended left on this machine: processes, mounts, cgroups, links, firewall rules, sockets.

Not here: ending it (`private`). Nothing is cleaned up: what is found is a fault to be shown.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from quilt_fn.settings import Settings
from runtime.supervisor import processes

CGROUPS = Path("/sys/fs/cgroup")
PATIENCE_S = 5.0
"""The kernel takes a moment to let go of a namespace's links after its last process."""

Family = set[tuple[int, int]]
"""(pid, start time) of processes."""


def groups(settings: Settings) -> list[Path]:
    """The platform's cgroups on every hierarchy, itself first."""
    name = f"quilt-{settings.platform}"
    bases = [CGROUPS / name, *CGROUPS.glob(f"*/{name}")]
    return [group for base in bases if base.is_dir() for group in (base, *base.iterdir()) if group.is_dir()]


def members(group: Path) -> set[int]:
    """The pids in one cgroup; none where it has gone."""
    try:
        return {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
    except OSError:
        return set()


def family(settings: Settings, supervisor: int) -> Family:
    """The supervisor, all that descends from it, and all in its cgroups."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = {supervisor}.union(*(members(group) for group in groups(settings)))
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {(pid, ticks) for pid in found if (ticks := processes.start_ticks(pid)) is not None}


def left(settings: Settings, before: Family) -> list[str]:
    """One line for each thing that is there and should not be."""
    run, state = str(settings.run_path), str(Path(settings.state_dir).resolve())
    tag = settings.platform[:8]
    found = [f"process {pid} {_name(pid)}" for pid, ticks in sorted(before) if processes.is_alive(pid, ticks)]
    found += [f"cgroup {group}" for group in groups(settings)]
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if run in line or state in line:
            found.append(f"mount {line.split()[4]}")
    links = sorted(path.name for path in Path("/sys/class/net").iterdir())
    found += [f"link {name}" for name in links if name.startswith((f"q{tag}", f"qb{tag}"))]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False)
    found += [f"nftables {line}" for line in tables.stdout.splitlines() if settings.platform in line]
    sockets = Path("/proc/net/unix").read_text().splitlines()
    found += [f"socket {line.split()[-1]}" for line in sockets if run in line]
    if settings.run_path.exists():
        found.append(f"folder {run}")
    return found


def wait_for_none(settings: Settings, before: Family) -> list[str]:
    """What is still there after a while of looking; empty as soon as nothing is."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := left(settings, before)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
    except OSError:
        return ""
