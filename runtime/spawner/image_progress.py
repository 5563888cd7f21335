"""How far a build of the image `debian` is, from what mmdebstrap, apt and dpkg say with --verbose.

Not here: running them (`debian`).
"""

from __future__ import annotations

import re

PHASES = {
    "I: running apt-get update": (1.0, 5.0, 0),
    "I: downloading packages with apt": (5.0, 12.0, 1),
    "I: extracting archives": (12.0, 40.0, 0),
    "I: installing essential packages": (40.0, 62.0, 2),
    "I: installing remaining packages": (62.0, 97.0, 3),
    "I: cleaning package lists": (97.0, 98.0, 0),
}
"""Where each begins and ends in percent, by the times that they took on a machine with two cores; and how much is said
of each package in it: that it was got, is unpacked, is set up. Of extracting nothing is said in between.
"""
FINISHING = 98.0
_NEW = re.compile(r"\d+ upgraded, (\d+) newly installed")
_STEP = re.compile(r"(Get:\d+|Unpacking|Setting up) ")


class ImageProgress:
    """Takes lines in their order; what it gives never falls."""

    def __init__(self) -> None:
        self.pct = 0.0
        self._begin, self._end, self._each = 0.0, 1.0, 0
        self._packages = 0
        self._done = 0

    def take(self, line: str) -> None:
        phase = next((span for words, span in PHASES.items() if line.startswith(words)), None)
        if phase is not None:
            self._begin, self._end, self._each = phase
            self._done = 0
        elif found := _NEW.match(line):
            self._packages, self._done = int(found[1]), 0
        elif _STEP.match(line):
            self._done += 1
        steps = self._packages * self._each
        part = min(1.0, self._done / steps) if steps else 0.0
        self.pct = max(self.pct, round(self._begin + (self._end - self._begin) * part, 1))
