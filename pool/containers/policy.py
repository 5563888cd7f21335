"""What becomes of a container whose command or whose init has ended by itself, or whose time is over. Pure: what was
seen in, a decision out.

The pauses are Docker's: 0.1 s, doubled at each turn, and from the start again for one that ran for ten seconds.
Not here: carrying it out (`lifecycle`).
"""

from __future__ import annotations

from typing import Literal

Restart = Literal["no", "on-failure", "always"]

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 60.0
STEADY_S = 10.0
"""One that ran for so long has come up well: the next pause is the first again."""
PLATFORM_ENDED = "platform_ended"


def pause_before_restart(restart: Restart, exit_code: int, ended_in_a_row: int, ran_s: float) -> float | None:
    """Seconds until it is started again; None where it stays ended.

    `ended_in_a_row`: how often it has ended before without having run for STEADY_S.
    """
    if restart == "no" or (restart == "on-failure" and exit_code == 0):
        return None
    if ran_s >= STEADY_S:
        return FIRST_PAUSE_S
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(ended_in_a_row, 32))


def comes_back(restart: Restart, exit_reason: str | None) -> bool:
    """Whether a container that has ended, and that nobody stopped, is started again. The platform's end is no failure
    of the container's, so that `on-failure` stays down after it.
    """
    return restart == "always" or (restart == "on-failure" and exit_reason != PLATFORM_ENDED)


def expired(expires_at: float | None, now: float) -> bool:
    """Whether its time to live is over; both in epoch seconds."""
    return expires_at is not None and expires_at <= now
