"""What a snapshot depends on that only this machine knows: image, guest, interpreter, CRIU, kernel, processor, mount
layout.

The node hashes it together with what only it knows (bundle, layer, environment, limits, hooks) into the snapshot's id.
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Any

from runtime.spawner import images, layers, programs
from runtime.spawner.names import Config


def facts(config: Config) -> dict[str, Any]:
    return {
        "layout": images.LAYOUT,
        "image": images.host(config),
        "guest": images.guest(config),
        "python": layers.version(config),
        "criu": criu_version(config),
        "kernel": os.uname().release,
        "cpu": _cpu(),
    }


@functools.cache
def criu_version(config: Config) -> str | None:
    """What `criu --version` says, None where there is no CRIU that runs."""
    if not config.criu:
        return None
    done = programs.run(*config.criu, "--version")
    return done.out.decode().split("\n")[0].removeprefix("Version: ").strip() if done.code == 0 else None


@functools.cache
def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return hashlib.sha256(line.encode()).hexdigest()[:16]
    return os.uname().machine
