"""What happens on this platform, for whoever listens: a bounded log in memory for each tenant, with growing numbers.

Not here: HTTP (`gateway.events`), and anything durable: what an event tells of is read again from its own record. A
number is the node process's incarnation and a counter, so numbers grow over restarts though the log starts anew; who
resumes from before what is kept is told so by a `gap` (docs/decisions/0016).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pool import api
from pool.api import Event
from pool.clock import Clock
from quilt_fn.errors import LimitReached

KEPT = 1000
"""Events of a tenant, for those who come back."""
BEHIND = 1000
"""A listener with so many events before it is dropped."""
LISTENERS = 100
"""Of one tenant."""
INCARNATION_SHIFT = 32
"""2^21 restarts and 2^32 events of each still are a whole number in JavaScript."""


@dataclass(slots=True)
class _Log:
    last: int
    """The number of the newest event, or of the one before the first."""
    lost: int
    """Events up to this number are not kept."""
    events: deque[Event] = field(default_factory=deque)
    listeners: set[Listener] = field(default_factory=set)


class Listener:
    """See pool.api.Listener."""

    def __init__(self, log: _Log, filters: Mapping[str, str]) -> None:
        self._log = log
        self._filters = tuple(filters.items())
        self._waiting: deque[Event] = deque()
        self._woken = asyncio.Event()
        self._over = False
        self.last_number = log.last

    def tell(self, event: Event) -> None:
        """Give this event to this listener, whatever its filters."""
        self._waiting.append(event)
        self._woken.set()

    def offer(self, event: Event) -> None:
        """Take an event where it is one of those asked for. No I/O."""
        if self._over:
            return
        for name, value in self._filters:
            if event.data.get(name) != value:
                return
        if len(self._waiting) >= BEHIND:
            self._over = True
            self._log.listeners.discard(self)
            last = self._waiting[-1].number
            data = {"after": last, "reason": f"more than {BEHIND} events behind", "hint": "resume with Last-Event-ID"}
            event = Event(None, "dropped", event.at, data)
        self.tell(event)

    async def next(self, timeout_s: float) -> Event | None:
        if not self._waiting:
            if self._over:
                return None
            self._woken.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._woken.wait()
            except TimeoutError:
                return None
        return self._waiting.popleft()

    @property
    def over(self) -> bool:
        return self._over and not self._waiting

    def close(self) -> None:
        self._over = True
        self._waiting.clear()
        self._log.listeners.discard(self)


class Events:
    """`incarnation` is this node process's; set it before the first event."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._logs: dict[str, _Log] = {}
        self.incarnation = 0

    def publish(self, tenant_id: str, kind: str, data: Mapping[str, Any]) -> None:
        log = self._log(tenant_id)
        log.last += 1
        event = Event(log.last, kind, self._clock.wall(), data)
        log.events.append(event)
        if len(log.events) > KEPT:
            lost = log.events.popleft().number
            assert lost is not None  # only what a listener is told by itself has none
            log.lost = lost
        for listener in tuple(log.listeners):
            listener.offer(event)

    def listened(self, tenant_id: str) -> bool:
        log = self._logs.get(tenant_id)
        return log is not None and bool(log.listeners)

    def listening(self) -> list[str]:
        """The tenants that somebody listens for."""
        return [tenant_id for tenant_id, log in self._logs.items() if log.listeners]

    def listen(self, tenant_id: str, filters: Mapping[str, str], after: int | None = None) -> Listener:
        log = self._log(tenant_id)
        if len(log.listeners) >= LISTENERS:
            raise LimitReached(
                f"{LISTENERS} streams of events are open already", hint="close some", retry_after=5,
                details={"limit": LISTENERS},
            )  # fmt: skip
        listener = Listener(log, filters)
        if after is not None:
            self._catch_up(log, listener, after)
        log.listeners.add(listener)
        return listener

    def _catch_up(self, log: _Log, listener: Listener, after: int) -> None:
        """What came after `after`, with a `gap` before it where some of that is not known any more."""
        if not log.lost <= after <= log.last:
            data = {"after": after, "resumed_after": log.lost, "hint": "read again what you keep up to date"}
            listener.tell(Event(log.lost, "gap", self._clock.wall(), data))
            after = log.lost
        for event in log.events:
            if event.number is not None and event.number > after:
                listener.offer(event)

    def _log(self, tenant_id: str) -> _Log:
        log = self._logs.get(tenant_id)
        if log is None:
            first = self.incarnation << INCARNATION_SHIFT
            log = self._logs[tenant_id] = _Log(first, first)
        return log


if TYPE_CHECKING:

    def _is_events(events: Events) -> api.Events:
        return events
