"""What a container's own command wrote: two files of bounded size, which its init writes in turn (`init/capture.c`)."""

from __future__ import annotations

import os
from pathlib import Path

FILES = ("a", "b")
FILE_LIMIT_BYTES = 8 << 20
"""Of each: at least this much of the newest output is kept, at most twice as much."""


def open_files(folder: Path) -> tuple[int, int]:
    """The two files, made where they are not there. The descriptors are the caller's to close."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    first, second = (os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for name in FILES)
    return first, second
