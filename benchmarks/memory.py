"""Proportional set sizes of a platform's sandboxes, from the kernel's own sums, and what the whole machine has left.

Not here: the limits that are set on them.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import leftovers
from quilt_fn.settings import Settings


def of_groups(settings: Settings, prefix: str) -> dict[str, float]:
    """MB of proportional set size of each cgroup whose name begins with `prefix` (ins_ or ctr_)."""
    pids: dict[str, set[int]] = {}
    for group in leftovers.groups(settings):
        if group.name.startswith(prefix):
            pids.setdefault(group.name, set()).update(leftovers.members(group))
    return {name: sum(pss_mb(pid) for pid in members) for name, members in pids.items() if members}


def pss_mb(pid: int) -> float:
    """0 for a process that has just ended."""
    try:
        return parse_pss_kb(Path(f"/proc/{pid}/smaps_rollup").read_text()) / 1024
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def parse_pss_kb(rollup: str) -> int:
    """The Pss line of a smaps_rollup. Raises ValueError where there is none."""
    for line in rollup.splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.split()[0])
    raise ValueError("no Pss in smaps_rollup")


def available_mb() -> float:
    """What the kernel says could be given to new programs."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    raise ValueError("no MemAvailable in /proc/meminfo")
