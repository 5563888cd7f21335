"""The room that must stay free on the state folder's disk: below it nothing new is taken, and what is there goes on.

Redis, the logs of functions and all writable layers share that disk. Not here: limits of one volume
(`runtime.spawner.disks`), and which requests are refused (`gateway.route.Route.fills`).
"""

from __future__ import annotations

import os
from pathlib import Path

from quilt_fn.errors import DiskFull

RETRY_AFTER_S = 30.0


class DiskFloor:
    """`reserve_mb` 0: nothing is refused. A state folder on a disk without so much room refuses everything new."""

    def __init__(self, folder: Path, reserve_mb: int) -> None:
        self._folder = folder
        self.reserve_bytes = reserve_mb << 20

    def free_bytes(self) -> int:
        """What processes without root's privileges can still write. One statvfs, answered from the kernel's memory."""
        found = os.statvfs(self._folder)
        return found.f_bavail * found.f_frsize

    def reason(self) -> str | None:
        """Why nothing new is taken now; None while there is room."""
        free = self.free_bytes()
        if free >= self.reserve_bytes:
            return None
        return (
            f"{free >> 20} MB are free on the disk of the state folder, and {self.reserve_bytes >> 20} must stay free"
        )

    def check(self) -> None:
        """Before anything that takes room for good. Raises DiskFull."""
        reason = self.reason()
        if reason is not None:
            raise DiskFull(
                f"nothing new is taken: {reason}",
                hint="delete containers, volumes or functions, make the disk larger, or lower QUILT_DISK_RESERVE_MB",
                retry_after=RETRY_AFTER_S,
            )
