"""Who the node process and the private Redis run as: the unprivileged user of the settings, where that one can work.

Not here: making the user (tools/setup), and starting anything (`runtime.supervisor`).
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from quilt_fn.settings import Settings
from runtime.doctor.places import REPOSITORY

PROBE = "import asyncio, ssl, gateway, pool, quilt_fn.settings, runtime.api, uvloop, orjson"
"""Packages of every kind that the node imports (standard library, ours, installed), few enough to take 0.1 s."""


class NodeUser(NamedTuple):
    uid: int
    gid: int


def node_user(settings: Settings, probe: Callable[[NodeUser], str | None] | None = None) -> NodeUser | str:
    """The uid and gid to use, or the reason why it has to be the present user.

    `probe` answers what hinders a user from running the code, None for nothing; by default it tries.
    """
    if os.geteuid() != 0:
        return "only root can start processes as another user"
    if settings.user in ("", "root"):
        return "QUILT_USER asks for root"
    try:
        entry = pwd.getpwnam(settings.user)
    except KeyError:
        return f"there is no user {settings.user!r}; tools/setup makes it"
    user = NodeUser(entry.pw_uid, entry.pw_gid)
    for path in (
        REPOSITORY,
        Path(sys.executable).absolute(),
        Path(settings.state_dir).absolute(),
        settings.run_path.absolute(),
    ):
        blocked = first_closed(path, user)
        if blocked is not None:
            return f"user {settings.user!r} cannot enter {blocked}, on the way to {path}"
    hindrance = (probe or try_imports)(user)
    return user if hindrance is None else f"user {settings.user!r} cannot run the code: {hindrance}"


def first_closed(path: Path, user: NodeUser) -> Path | None:
    """The first folder on the way to `path` that `user` may not enter, by its mode; what is not there yet is open."""
    for folder in reversed(path.parents):
        try:
            found = folder.stat()
        except FileNotFoundError:
            return None
        shift = 6 if found.st_uid == user.uid else 3 if found.st_gid == user.gid else 0
        if not (found.st_mode >> shift) & 0o1:
            return folder
    return None


def try_imports(user: NodeUser) -> str | None:
    """Import what the node needs as `user`; the last line of what Python said where that fails."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROBE],
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"python ended with {done.returncode}"
