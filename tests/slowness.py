"""How much longer than usual this machine needs, for what tests wait at most: an emulated one takes ten times as long.

Only limits of patience are multiplied by it; nothing that is measured is.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import time

USUAL_S = 0.05
"""What starting a Python takes on the machines that the limits were set for, when they are busy."""


@functools.cache
def slowness() -> float:
    """From 1 to 10: the quickest start of a Python out of three, over the usual."""
    took = []
    for _ in range(3):
        begun = time.monotonic()
        subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)
        took.append(time.monotonic() - begun)
    return min(10.0, max(1.0, min(took) / USUAL_S))


def patience(seconds: float) -> float:
    """`seconds` on a usual machine, and as much more here as it is slower."""
    return seconds * slowness()
