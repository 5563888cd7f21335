"""What a program does whose output nobody reads any more, as `quilt … | head -1` has it.

Not here: output itself. Standard library only: the supervisor takes this too.
"""

from __future__ import annotations

import os
import sys

READER_LEFT = 141
"""The exit code, as a shell has it of a program that SIGPIPE ended."""


def reader_left() -> int:
    """Call it where BrokenPipeError came: Python must not try to flush stdout once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return READER_LEFT
