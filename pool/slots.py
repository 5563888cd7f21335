"""What a version's pool is made of: its limits, and one slot for each instance with what the pool knows of it.

Not here: who gets which (`pool.dispatcher`).
"""

from __future__ import annotations

from dataclasses import dataclass

from quilt_fn.states import INSTANCE, InstanceState, check
from runtime.api import Instance


@dataclass(slots=True)
class Limits:
    """How many and for how long. Those of a version, where its function's pool target does not say otherwise."""

    min: int = 0
    max: int = 10
    buffer: int = 0
    idle_timeout_s: float = 300.0
    max_queue: int = 1000
    recycle_after_invocations: int | None = None
    recycle_after_s: float | None = None
    recycle_memory_growth_bytes: int | None = None
    one_shot: bool = False


class Slot:
    """The pool's view of one instance."""

    __slots__ = ("first_memory", "gone", "idle_since", "instance", "invocations", "started", "state", "used_up")

    def __init__(self, instance: Instance, now: float) -> None:
        self.instance = instance
        self.state = InstanceState.READY
        self.invocations = 0
        self.started = now
        self.idle_since = now
        self.first_memory: int | None = None
        self.used_up: str | None = None
        self.gone = False

    def move(self, state: InstanceState) -> None:
        """Raises IllegalTransition."""
        check(INSTANCE, self.state, state, self.instance.instance_id)
        self.state = state
