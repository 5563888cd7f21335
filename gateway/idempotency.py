"""Idempotency-Key: a create that is sent twice happens once, and is answered twice with what the first one was told.

Kept in this process's memory, bounded in number and time, so it does not survive a restart of the node.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from gateway.context import Ask
from quilt_fn.errors import InvalidRequest, InvalidValue

Work = Callable[[], Awaitable[tuple["Answered", str | None]]]
KEEP_S = 24 * 3600.0
KEEP_AT_MOST = 10_000
HEADER = "Idempotency-Key"


@dataclass(frozen=True, slots=True)
class Answered:
    """A response that can be given again."""

    status: int
    body: bytes
    content_type: str = "application/json"

    def response(self, *, replayed: bool) -> web.Response:
        headers = {"Idempotency-Replayed": "true"} if replayed else None
        return web.Response(body=self.body, status=self.status, content_type=self.content_type, headers=headers)


@dataclass(slots=True)
class _Entry:
    until: float
    fingerprint: str | None
    answered: asyncio.Future[Answered | None]


class Replays:
    """The answers of the last 24 hours, at most 10,000: oldest out first.

    While the first is still at work a second with the same key waits for it. Only answers are kept, not failures: after
    a failure the same key may be tried again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, keep_at_most: int = KEEP_AT_MOST) -> None:
        self._clock = clock
        self._keep_at_most = keep_at_most
        self._entries: OrderedDict[tuple[str, str, str], _Entry] = OrderedDict()

    async def once(self, ask: Ask, route: str, fingerprint: str | None, work: Work) -> web.Response:
        """Run `work` unless this caller's key has an answer already.

        `fingerprint` is the body's; None where only `work` can tell (a streamed body): then `work` is always run, and
        the fingerprint that it gives back with its answer is compared. Raises InvalidValue where the same key comes
        with another body.
        """
        key = ask.request.headers.get(HEADER)
        if key is None:
            return (await work())[0].response(replayed=False)
        if not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
            raise InvalidRequest(f"{HEADER} must be 1 to 255 printable ASCII characters")
        name = (ask.tenant_id, route, key)
        while (entry := self._find(name)) is not None:
            given = fingerprint
            if given is None:
                given = (await work())[1]
            answered = await asyncio.shield(entry.answered)
            if answered is None:
                continue
            if entry.fingerprint != given:
                raise InvalidValue(
                    f"this {HEADER} was used before with another body", hint="use a new key for a new request"
                )
            return answered.response(replayed=True)
        return await self._first(name, fingerprint, work)

    async def _first(self, name: tuple[str, str, str], fingerprint: str | None, work: Work) -> web.Response:
        entry = _Entry(self._clock() + KEEP_S, fingerprint, asyncio.get_running_loop().create_future())
        self._entries[name] = entry
        while len(self._entries) > self._keep_at_most:
            self._entries.popitem(last=False)
        try:
            answered, found = await work()
        except BaseException:
            if self._entries.get(name) is entry:
                del self._entries[name]
            entry.answered.set_result(None)
            raise
        if entry.fingerprint is None:
            entry.fingerprint = found
        entry.answered.set_result(answered)
        return answered.response(replayed=False)

    def _find(self, name: tuple[str, str, str]) -> _Entry | None:
        now = self._clock()
        while self._entries:
            oldest = next(iter(self._entries))
            if self._entries[oldest].until > now:
                break
            del self._entries[oldest]
        return self._entries.get(name)


def fingerprint_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
