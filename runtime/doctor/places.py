"""Where set-up puts things, and which of them to use: CRIU, uv, the static init, its filters.

Not here: whether they work (`checks`).
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from quilt_fn.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
"""The folder that holds the packages quilt_fn, runtime, pool and gateway."""
TOOLS = REPOSITORY / ".tools"
INIT = TOOLS / "bin" / "quilt-init"
INSTANCE_FILTER = TOOLS / "bin" / "instance.bpf"
TEMPLATE_FILTER = TOOLS / "bin" / "template.bpf"
WAITING = TOOLS / "bin" / "criu-waiting.so"
SYSTEM_PYTHON = "/usr/bin/python3"


def criu_argv(settings: Settings, tools: Path = TOOLS) -> list[str] | None:
    """The words that a criu command begins with: the setting's, set-up's, or the PATH's; None where there is none."""
    if settings.criu:
        return [settings.criu]
    chosen = tools / "criu" / "argv"
    if chosen.exists():
        return [str(word) for word in json.loads(chosen.read_text())]
    found = shutil.which("criu", path="/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
    return [found] if found else None


def uv_path(tools: Path = TOOLS) -> str | None:
    """The uv that builds layers: the environment's own, set-up's, or the PATH's."""
    for candidate in (Path(sys.prefix) / "bin" / "uv", tools / "uv" / "bin" / "uv"):
        if candidate.exists():
            return str(candidate)
    return shutil.which("uv")


def redis_server() -> str | None:
    return shutil.which("redis-server", path="/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin")
