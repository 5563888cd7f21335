"""Processes by pid and start time, so that a pid that was given away again is never taken for the old one.

Not here: starting any (`child`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from pathlib import Path


def start_ticks(pid: int) -> int | None:
    """When `pid` started, in ticks since boot; None where there is no such process, or it only waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    words = stat.rpartition(")")[2].split()
    return None if words[0] in ("Z", "X") else int(words[19])


def is_alive(pid: int, started: int | None = None) -> bool:
    found = start_ticks(pid)
    return found is not None and (started is None or found == started)


def wait(pid: int, seconds: float) -> bool:
    """Wait for the end of a process that need not be our child; whether it ended in time."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.EINVAL):  # EINVAL: it was being reaped at this moment
            raise
        return True
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(pidfd)


def end(pid: int, started: int | None, seconds: float) -> None:
    """End that very process: asked first, killed after `seconds`. Returns when it has gone."""
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 30.0)):
        if not is_alive(pid, started):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if wait(pid, patience):
            return
