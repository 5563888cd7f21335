"""What a container's processes are, as its own users would see them: read from this machine's /proc, by pid.

Not here: which processes those are (the cgroup's), and signals (the container's init sends them).
"""

from __future__ import annotations

import os
from typing import Any

from runtime.spawner.tenants import RANGE

COMMAND_LIMIT = 200
"""Characters of a command line that are shown: a page of processes has to fit a message."""


def look(pid: int, base: int) -> dict[str, Any] | None:
    """{pid, ppid, user, state, command, memory_bytes, started_ticks} of one; None where it has ended.

    Pids are the container's own; `user` is its own user id. What has ended may have left its number to a process of
    somebody else's: everything is read of one process, and only where the container's tenant has a name for its user.
    """
    try:
        folder = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _in(folder, base)
    except (FileNotFoundError, ProcessLookupError):
        return None
    finally:
        os.close(folder)


def _in(folder: int, base: int) -> dict[str, Any] | None:
    status = _status(_read(folder, "status", 1 << 16))
    uid = int(status["Uid"].split()[0]) - base
    if not 0 <= uid < RANGE:
        return None
    stat = _read(folder, "stat", 1 << 16).decode(errors="replace").rsplit(")", 1)[1].split()
    command = _read(folder, "cmdline", COMMAND_LIMIT * 4).replace(b"\0", b" ").decode(errors="replace").strip()
    return {
        "pid": int(status["NSpid"].split()[-1]),
        "ppid": _inside(int(status["PPid"])) if int(status["PPid"]) else 0,
        "user": uid,
        "state": status["State"].split()[0],
        "command": (command or f"[{status['Name']}]")[:COMMAND_LIMIT],
        "memory_bytes": int(stat[21]) * os.sysconf("SC_PAGE_SIZE"),
        "started_ticks": int(stat[19]),
    }


def _read(folder: int, name: str, limit: int) -> bytes:
    """At most `limit` bytes: a command line may have megabytes."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)


def _status(text: bytes) -> dict[str, str]:
    lines = text.decode(errors="replace").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def _inside(pid: int) -> int:
    """A parent's own number; 0 where it is outside of the container or has ended."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            words = _status(file.read()).get("NSpid", "").split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(words[-1]) if len(words) > 1 else 0
