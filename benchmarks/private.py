"""A platform of its own for one run: free port, own state folder, own key; at its end nothing may be left of it.

Not here: what is asked of it. The state folder stays, because what was built in it (layers, snapshots) takes long.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import leftovers
from benchmarks.wire import Http
from quilt_fn.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[1]
BUILD = REPOSITORY / "build"
STOP_TIMEOUT_S = 60.0


class PlatformFailed(Exception):
    """The platform did not start, did not end, or left something behind."""


@dataclass(slots=True)
class Private:
    """A running platform."""

    settings: Settings
    key: str
    process: subprocess.Popen[str]

    def http(self) -> Http:
        return Http(self.settings.port, self.key)

    @property
    def spawner_config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.settings.run_path / "spawner.json").read_text())
        return found

    def pid(self, name: str) -> int:
        children = json.loads((self.settings.run_path / "status.json").read_text())["children"]
        return next(int(child["pid"]) for child in children if child["name"] == name)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def platform(name: str) -> Iterator[Private]:
    """Start one with its state in build/<name>-state; then stop it. Raises PlatformFailed, also for what is left."""
    BUILD.mkdir(exist_ok=True)
    settings = Settings(state_dir=str(BUILD / f"{name}-state"), port=free_port())
    log_path = BUILD / f"{name}.log"
    config = tempfile.mkdtemp(prefix="quilt-bench-")
    key = f"quilt_sk_{secrets.token_hex(16)}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("QUILT_") or k == "QUILT_CRIU"}
    own = {"QUILT_STATE_DIR": settings.state_dir, "QUILT_PORT": str(settings.port), "QUILT_API_KEY": key,
           "XDG_CONFIG_HOME": config}  # fmt: skip
    try:
        with open(log_path, "w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "runtime.supervisor", "up"], cwd=REPOSITORY, env={**kept, **own},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert process.stdout is not None
        with process.stdout as said:
            if "is up" not in said.readline():
                process.wait(STOP_TIMEOUT_S)
                raise PlatformFailed(f"the platform did not start:\n{log_path.read_text()[-4000:]}")
            private = Private(settings, key, process)
            try:
                yield private
            finally:
                _stop(private, log_path)
    finally:
        shutil.rmtree(config)


def _stop(private: Private, log_path: Path) -> None:
    process = private.process
    family = leftovers.family(private.settings, process.pid)
    if process.poll() is not None:
        raise PlatformFailed(f"the platform ended by itself ({process.returncode}):\n{log_path.read_text()[-4000:]}")
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise PlatformFailed(f"the platform did not end within {STOP_TIMEOUT_S:g} s") from None
    left = leftovers.wait_for_none(private.settings, family)
    if left:
        raise PlatformFailed("the platform left behind:\n  " + "\n  ".join(left))
    if code != 0:
        raise PlatformFailed(f"the platform ended with {code}:\n{log_path.read_text()[-4000:]}")
