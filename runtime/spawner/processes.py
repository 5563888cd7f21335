"""What a container's processes are, as its own users would see them: read from this machine's /proc, by pid.

Not here: which processes those are (the cgroup's), and signals (the container's init sends them).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runtime.spawner.tenants import RANGE

COMMAND_LIMIT = 200
"""Characters of a command line that are shown: a page of processes has to fit a message."""


def listed(pids: Iterable[int], base: int) -> list[dict[str, Any]]:
    """{pid, ppid, user, state, command, memory_bytes, started_ticks} of each that is still there, by pid.

    Pids are the container's own; `user` is its own user id, None for one that it has no name for.
    """
    found = []
    for pid in pids:
        try:
            found.append(_one(pid, base))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since
    return sorted(found, key=lambda process: int(process["pid"]))


def _one(pid: int, base: int) -> dict[str, Any]:
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
    stat = (folder / "stat").read_text().rsplit(")", 1)[1].split()
    with (folder / "cmdline").open("rb", buffering=0) as file:  # a command line may have megabytes
        command = file.read(COMMAND_LIMIT * 4).replace(b"\0", b" ").decode(errors="replace").strip()
    uid = int(status["Uid"].split()[0]) - base
    parent = _inside(int(status["PPid"])) if int(status["PPid"]) else 0
    return {
        "pid": int(status["NSpid"].split()[-1]),
        "ppid": parent,
        "user": uid if 0 <= uid < RANGE else None,
        "state": status["State"].split()[0],
        "command": (command or f"[{status['Name']}]")[:COMMAND_LIMIT],
        "memory_bytes": int(stat[21]) * os.sysconf("SC_PAGE_SIZE"),
        "started_ticks": int(stat[19]),
    }


def _inside(pid: int) -> int:
    """A parent's own number; 0 where it is outside of the container or has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                words = line.split()[1:]
                return int(words[-1]) if len(words) > 1 else 0
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0
