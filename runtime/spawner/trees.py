"""Removing folders whose contents a container made: of any depth, links never followed.

Not here: which folders, and when (`operations`, `snapshots`).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def remove(path: Path) -> None:
    """Remove `path` and all below it. Idempotent; raises CalledProcessError where even rm can't.

    rmtree takes one call and one descriptor for each level, so a tree that is thousands deep ends it; rm does not mind.
    """
    try:
        shutil.rmtree(path)
    except (RecursionError, OSError):
        subprocess.run(
            ["rm", "-rf", "--one-file-system", "--", str(path)],
            check=True, stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip
