"""What a snapshot depends on that only this machine knows: image, guest, interpreter, CRIU, kernel, processor, mount
layout.

The node hashes it together with what only it knows (bundle, layer, environment, limits, hooks) into the snapshot's id.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from dataclasses import replace
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
    try:
        done = programs.run(*config.criu, "--version")
    except OSError as error:
        print(f"quilt spawner: {config.criu[-1]} can't be started: {error.strerror}", file=sys.stderr)
        return None
    return done.out.decode().split("\n")[0].removeprefix("Version: ").strip() if done.code == 0 else None


def with_criu_that_runs(config: Config) -> Config:
    """`config`, with no CRIU where the one it names does not run: all else goes on as where none is installed."""
    if config.criu and criu_version(config) is None:
        print("quilt spawner: no CRIU runs here: nothing is snapshotted or restored", file=sys.stderr, flush=True)
        return replace(config, criu=())
    return config


@functools.cache
def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return hashlib.sha256(line.encode()).hexdigest()[:16]
    return os.uname().machine
