"""What a handler of an API route is given: the request, who asks, and the platform that answers.

Not here: authentication (`gateway.auth`), nor anything of the hot path, which takes none of this (`gateway.invoke`).
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web
from pydantic import BaseModel

from gateway.errors import invalid_field
from gateway.limits import RateLimits
from pool.api import Caller, Platform
from quilt_fn.settings import Settings

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
REQUEST_ID = web.RequestKey("request_id", str)


class Ids:
    """Ids for requests and invocations: 40 random bits of this process, then a counter. Cheaper than random ones."""

    __slots__ = ("_counter", "_prefix")

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(5)
        self._counter = itertools.count(secrets.randbelow(1 << 24))

    def next(self) -> str:
        """20 hex digits that this process gives once."""
        return f"{self._prefix}{next(self._counter):010x}"


def sane_request_id(given: str | None) -> str | None:
    """The caller's X-Request-Id where it is safe to repeat in headers and logs."""
    if given is not None and _SANE_ID.fullmatch(given):
        return given
    return None


class Background:
    """The tasks that outlive their request or that shutdown has to end: each is awaited by `close`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.closing = asyncio.Event()
        """Set when the node is going: endless streams end by themselves then."""

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever awaits the task has it; a client that left must not make it "never retrieved"

    async def close(self) -> None:
        """Cancel what is left and wait for it."""
        self.closing.set()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True)
class Services:
    """What the whole application shares."""

    platform: Platform
    settings: Settings
    background: Background
    ids: Ids
    limits: RateLimits | None = None
    _node_id: str | None = None

    async def node_id(self) -> str | None:
        """This node's id, asked once."""
        if self._node_id is None:
            self._node_id = (await self.platform.system()).get("node_id")
        return self._node_id

    @property
    def max_body_bytes(self) -> int:
        return self.settings.max_body_mb << 20


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to an API route. `caller` of a public route stands for nobody."""

    request: web.Request
    services: Services
    caller: Caller
    request_id: str

    @property
    def platform(self) -> Platform:
        return self.services.platform

    @property
    def tenant_id(self) -> str:
        return self.caller.tenant_id

    def path(self, name: str) -> str:
        """A variable part of the path."""
        return self.request.match_info[name]

    def number(self, name: str, default: int, maximum: int) -> int:
        """A whole number ≥ 1 from the query; more than `maximum` is taken as `maximum`."""
        text = self.request.query.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
            raise invalid_field(name, f"a whole number from 1 to {maximum}", text)
        return min(int(text), maximum)

    def seconds(self, name: str, default: float, maximum: float) -> float:
        """A time ≥ 0 from the query, also a fraction of a second; more than `maximum` is taken as `maximum`."""
        text = self.request.query.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < 1e6:  # NaN is none of these either
            raise invalid_field(name, f"seconds from 0 to {maximum:g}", text)
        return min(value, maximum)

    def flag(self, name: str) -> bool:
        """true or false from the query; false where it is absent."""
        text = self.request.query.get(name, "false").lower()
        if text not in ("true", "false", "1", "0"):
            raise invalid_field(name, "true or false", text)
        return text in ("true", "1")


Handler = Callable[[Ask], Awaitable[web.StreamResponse]]


def plain(value: object) -> object:
    """What orjson asks for where it meets a model."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is no JSON")


def dump(value: object) -> bytes:
    """JSON of plain values and models."""
    return orjson.dumps(value, default=plain)


def answer(value: object, status: int = 200) -> web.Response:
    """A JSON response."""
    return web.Response(body=dump(value), status=status, content_type="application/json")
