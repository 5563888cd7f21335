"""Why a command in a container has ended: by itself, by a signal, for memory, at its time limit.

The kernel counts in the container's cgroup how often it has killed for memory, before it sends the SIGKILL. So a
command that ended by SIGKILL while that count grew was killed for memory; each kill explains one end.
"""

from __future__ import annotations

import re
from collections.abc import Callable

KILLED = 137
_COUNT = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)


def count_in(events: bytes) -> int:
    """The kernel's count, from memory.events or from memory.oom_control of cgroup v1; 0 where there is none."""
    found = _COUNT.search(events)
    return int(found[1]) if found else 0


class MemoryKills:
    """One container's. `count` says how often the kernel has killed in it; None where its cgroup is gone."""

    def __init__(self, count: Callable[[], int | None]) -> None:
        self._count = count
        self._claimed = 0
        """Of the kernel's count: up to here each is known to be somebody's, or older than who asked."""

    def seen(self) -> int:
        """Up to now. Whoever starts a command keeps it for `explains`."""
        return self._count() or 0

    def explains(self, exit_code: int, since: int) -> bool:
        """Whether a command with that exit code was killed for memory, by a kill after `since` that explains no other
        end. It explains this one from now on, so ask once.
        """
        first = max(since, self._claimed)
        if exit_code != KILLED or self.seen() <= first:
            return False
        self._claimed = first + 1
        return True


def exit_reason(exit_code: int, for_memory: bool, timed_out: bool = False) -> str:
    """`exited`, `signalled`, `out_of_memory` or `timed_out`. `for_memory`: a kill for memory explains this end."""
    if timed_out:
        return "timed_out"
    if for_memory:
        return "out_of_memory"
    return "signalled" if exit_code > 128 else "exited"
