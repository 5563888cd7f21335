"""Who holds a state folder: a lock on <state>/supervisor.lock, with the holder's JSON in the file.

The kernel lets go of the lock when the holder ends, however it ends. Not here: what the holder does (`run`).
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from quilt_fn.errors import PlatformHeld
from quilt_fn.settings import Settings

RETRY_SECONDS = 1.0
"""Somebody who only looks holds the lock for a moment, and a holder that was just killed may still be ending."""


@dataclass(frozen=True, slots=True)
class Holder:
    pid: int
    url: str
    started_at: float
    run: str


def lock_path(settings: Settings) -> Path:
    return Path(settings.state_dir) / "supervisor.lock"


@contextmanager
def hold(settings: Settings) -> Iterator[None]:
    """Hold the state folder, which exists. Raises PlatformHeld naming the holder's pid."""
    path = lock_path(settings)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        _take(fd, settings)
        holder = Holder(os.getpid(), settings.base_url, time.time(), str(settings.run_path))
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(asdict(holder)).encode(), 0)
        yield
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _take(fd: int, settings: Settings) -> None:
    deadline = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                other = _parse(os.pread(fd, 4096, 0))
                who = (
                    f"by process {other.pid}, at {other.url}" if other else "by a process that has not said which it is"
                )
                raise PlatformHeld(
                    f"the state folder {settings.state_dir} is held {who}",
                    details={"pid": other.pid if other else None, "url": other.url if other else None},
                    hint="`quilt down` ends it; another QUILT_STATE_DIR and QUILT_PORT run beside it",
                ) from None
            time.sleep(0.02)


def holder(settings: Settings) -> Holder | None:
    """Who holds the state folder now; None for nobody."""
    try:
        fd = os.open(lock_path(settings), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _parse(os.pread(fd, 4096, 0))
        return None
    finally:
        os.close(fd)


def _parse(content: bytes) -> Holder | None:
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError):
        return None
