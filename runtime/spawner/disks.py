"""Volumes with a size limit: a sparse file with an ext4 of that size in it, mounted by a loop device.

The device detaches itself when the last mount of it goes (also after kill -9: the mounts are in the spawner's own
namespace and in containers'). Mounting the same file twice gives the same device, so a container that outlives a
spawner and the next one share one filesystem. Not here: volumes without a limit, which are plain folders.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from runtime.spawner import kernel, programs
from runtime.spawner.protocol import Refused

BLOCK = 4096


def missing() -> str:
    """Why this machine can't limit volumes; "" where it can."""
    for program in ("mkfs.ext4", "mount"):
        if shutil.which(program) is None:
            return f"volumes can't have a size_limit_mb: {program} is not installed (packages e2fsprogs and mount)"
    if not Path("/dev/loop-control").exists():
        return "volumes can't have a size_limit_mb: this kernel has no loop devices (/dev/loop-control)"
    return ""


def make(disk: Path, size_mb: int) -> None:
    """A filesystem of `size_mb` in the new file `disk`; the part of it that is written takes room on the disk below."""
    reason = missing()
    if reason:
        raise Refused(reason)
    with open(disk, "xb") as file:
        file.truncate(size_mb << 20)
    _run("mkfs.ext4", "-q", "-F", "-m", "0", "-b", str(BLOCK), "-E", "nodiscard,lazy_itable_init=1", str(disk))


def mount(disk: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "ext4", "-o", "loop,nosuid,nodev,noatime,discard", str(disk), str(target))


def unmount(target: Path) -> None:
    """Idempotent. What still holds it (a container) goes on; nothing else is kept."""
    if os.path.ismount(target):
        kernel.umount(str(target))
    if target.exists():
        target.rmdir()


def _run(*command: str) -> None:
    done = programs.run(*command)
    if done.code:
        words = done.said or done.out.decode(errors="replace").strip()
        raise Refused(f"{command[0]} failed: {words[-500:]}", "full" if "No space left" in words else "failed")
