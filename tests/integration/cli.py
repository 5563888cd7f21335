"""The `quilt` command as users type it, against a platform of the tests'."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.integration.live import REPOSITORY, Live
from tests.slowness import patience

QUILT = [sys.executable, "-m", "quilt_fn.cli.main"]


def environment(live: Live) -> dict[str, str]:
    return {**os.environ, "QUILT_URL": f"http://127.0.0.1:{live.port}", "QUILT_API_KEY": live.key, "TERM": "xterm"}


def quilt(live: Live, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*QUILT, *words], cwd=REPOSITORY, env=environment(live), input=stdin, capture_output=True, timeout=patience(60)
    )
