"""How many instances a version should have: a pure function from what is seen to a list of actions. No I/O, no clock.

Not here: who carries the actions out (`pool.executor`), nor who serves whom (`pool.dispatcher`).

The rules, in the order in which they are applied:
1. After a failed start nothing is started before `not_before`, and then one at a time, until one has come up.
2. Wanted are max(min, busy + queue's need + buffer), at most max. What was started and has not come up counts.
3. The queue needs an instance for each waiter, unless those that are busy will be free sooner than a start takes.
4. Idle instances go, longest idle first, when they have been idle for `idle_timeout_s`, are over max, or drain; never
   below min, below the buffer, or below what the arrivals of late keep busy.
5. Idle instances that are used up (age, memory) go too. What that takes below rule 4 goes one at a time, and another
   is started in the same breath.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NEGLIGIBLE_LOAD = 0.01
"""Instances kept busy by the arrivals of late, below which none is kept for them: the average never falls to zero."""


@dataclass(frozen=True, slots=True)
class Idle:
    """One idle instance. `used_up` says why it should be replaced, where it should."""

    instance_id: str
    since: float
    used_up: str | None = None


@dataclass(frozen=True, slots=True)
class View:
    """What the scaler sees of one version's pool. Times are seconds of one monotonic clock."""

    now: float
    queued: int = 0
    oldest_wait_s: float = 0.0
    busy: int = 0
    idle: Sequence[Idle] = ()
    """Longest idle first."""
    warming: int = 0
    """Starts that were asked for and have not come up yet, the scaler's own of a moment ago included."""
    min: int = 0
    max: int = 10
    buffer: int = 0
    idle_timeout_s: float = 300.0
    draining: bool = False
    """A newer version serves, or the function is paused or deleted: serve who waits, keep nothing."""
    failures: int = 0
    """Starts that failed since one last came up."""
    not_before: float = 0.0
    max_warming: int = 16
    """Starts that may be under way at once."""
    start_s: float | None = None
    """What a start costs now; None where it isn't known yet."""
    run_s: float | None = None
    """What an invocation takes; None where it isn't known yet."""
    unchanged_s: float = 0.0
    """How long ago an invocation last began or ended: all that are running take at least so long."""
    arrivals_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Start:
    count: int


@dataclass(frozen=True, slots=True)
class Retire:
    instance_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class LookAgain:
    """Nothing will happen by itself: decide again after so long."""

    after_s: float


Action = Start | Retire | LookAgain


def decide(view: View) -> list[Action]:
    """The actions that take the pool from what `view` shows to what it should be."""
    low = 0 if view.draining else min(view.min, view.max)
    buffer = 0 if view.draining else view.buffer
    queue_need, look_after_s = _queue_need(view)
    wanted = min(max(low, view.busy + queue_need + buffer), view.max)

    retire = _retire(view, low, buffer)
    left = view.busy + len(view.idle) + view.warming - len(retire)
    starts, look_for_start_s = _starts(view, wanted - left)

    actions: list[Action] = [*retire]
    if starts:
        actions.append(Start(starts))
    looks = [after_s for after_s in (look_after_s, look_for_start_s) if after_s is not None]
    if looks:
        actions.append(LookAgain(min(looks)))
    return actions


def _queue_need(view: View) -> tuple[int, float | None]:
    """How many instances the queue needs of its own, and when to look again where it is left to wait."""
    waiting = max(0, view.queued - view.warming)
    if not waiting or not view.busy or view.start_s is None or view.run_s is None:
        return view.queued, None
    wait_s = max(view.run_s, view.unchanged_s) * math.ceil(waiting / view.busy)
    if wait_s >= view.start_s or view.oldest_wait_s >= view.start_s:
        return view.queued, None
    return view.queued - waiting, max(view.start_s - view.oldest_wait_s, 0.001)


def _starts(view: View, missing: int) -> tuple[int, float | None]:
    if missing <= 0:
        return 0, None
    if view.failures:
        if view.now < view.not_before:
            return 0, max(view.not_before - view.now, 0.001)
        return (0, None) if view.warming else (1, None)
    return max(0, min(missing, view.max_warming - view.warming)), None


def _retire(view: View, low: int, buffer: int) -> list[Retire]:
    total = view.busy + len(view.idle) + view.warming
    needed = view.busy + view.queued  # `total` counts what is warming for them
    if not view.draining and view.run_s is not None:
        needed = max(needed, math.ceil(view.arrivals_per_s * view.run_s - NEGLIGIBLE_LOAD))
    floor = max(low, min(needed + buffer, view.max))
    may_replace = not view.failures and not view.warming
    found: list[Retire] = []
    for idle in view.idle:
        spare = total - len(found) > floor
        if total - len(found) > max(view.max, view.busy):
            found.append(Retire(idle.instance_id, "more than max_instances"))
        elif spare and view.draining:
            found.append(Retire(idle.instance_id, "draining"))
        elif idle.used_up is not None and (spare or may_replace):
            may_replace = may_replace and spare
            found.append(Retire(idle.instance_id, idle.used_up))
        elif spare and view.now - idle.since >= view.idle_timeout_s:
            found.append(Retire(idle.instance_id, "idle timeout"))
    return found
