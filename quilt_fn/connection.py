"""One platform's address and the key for it: requests with the key, retries, waits, and answers as JSON or lines.

Not here: the network (`transport`), and what is asked (`client`, and one file for each concern).
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from quilt_fn import credentials, errors, remote, settings
from quilt_fn.twins import background

if TYPE_CHECKING:
    from pydantic import BaseModel

    from quilt_fn.transport import Reply, Request, Transport

RETRY_PAUSES_S = (0.1, 0.4, 1.0)
RATE_WAIT_MAX_S = 60.0
"""How long one request over the key's rate is held back, all its waits together."""
CALL_TIMEOUT_S = 2 * 3600.0
"""A call is held while it queues and runs; the platform's own limits fire before this one."""
NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Page:
    """One page of records. `next_cursor` None: the last one. One goes through it as through its `items`."""

    items: list[Any]
    next_cursor: str | None

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


class Connection:
    """What `Client` extends, which says what the parameters mean. Requests that may be sent twice are retried where the
    failure is one that passes; no other is.
    """

    def __init__(
        self, url: str | None = None, api_key: str | None = None, *, transport: Transport | None = None,
        on_wait: Callable[[errors.RateLimited, float], None] | None = None,
    ) -> None:  # fmt: skip
        known = settings.read()
        self.url = (url or known.base_url).rstrip("/")
        self._api_key = api_key or known.api_key or credentials.lookup(self.url)
        if transport is None:
            from quilt_fn.transport import AioHttpTransport

            transport = AioHttpTransport(self.url)
        self._transport = transport
        self._on_wait = on_wait
        background.at_exit(transport.close)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    @property
    def api_key(self) -> str | None:
        return self._api_key

    @asynccontextmanager
    async def _send(self, request: Request) -> AsyncGenerator[Reply, None]:
        """The reply, where its status is below 400 or a pickled exception came; else what the gateway raised."""
        auth = {"X-Api-Key": self._api_key} if self._api_key else {}
        request = replace(request, headers={**auth, **request.headers})
        left_s = RATE_WAIT_MAX_S if request.repeatable else 0.0
        while True:
            async with self._transport.send(request) as reply:
                if reply.status < 400 or reply.headers.get("Content-Type", "").startswith(remote.EXCEPTION):
                    yield reply
                    return
                error = await self._failure(reply)
            # A little more than was said, and not the same for all: else those who wait come back at once.
            pause = max(error.retry_after or 1.0, 0.05) * random.uniform(1.0, 1.2)
            if not isinstance(error, errors.RateLimited) or pause > left_s:
                raise error
            left_s -= pause
            if self._on_wait is not None:
                self._on_wait(error, pause)
            await asyncio.sleep(pause)

    async def _failure(self, reply: Reply) -> errors.QuiltError:
        error = remote.error_of(await reply.read(), reply.status, self.url)
        if isinstance(error, errors.Unauthenticated) and not self._api_key:
            error.hint = (
                f"there is no key for {self.url}: set QUILT_API_KEY, or write it to {credentials.file_path()}"
                " (`quilt up` does that for the user who runs it)"
            )
        return error

    async def _json(
        self,
        method: str,
        path: str,
        value: Mapping[str, Any] | None = None,
        *,
        body: bytes | None = None,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        safe: bool = False,
    ) -> dict[str, Any]:
        """A JSON object. `safe`: may be sent twice."""
        from quilt_fn.transport import Request

        data = json.dumps(value).encode() if value is not None else body
        own = {"Content-Type": content_type} if data is not None else {}
        request = Request(method, path, query or {}, {**own, **(headers or {})}, data, timeout_s)
        pauses = iter(RETRY_PAUSES_S if safe else ())
        while True:
            try:
                async with self._send(request) as reply:
                    raw = await reply.read()
                break
            except errors.QuiltError as error:
                pause = next(pauses, None)
                if not error.retryable or pause is None or isinstance(error, errors.RateLimited):  # waited already
                    raise
                await asyncio.sleep(max(pause, min(error.retry_after or 0.0, 5.0)))
        try:
            answer = json.loads(raw)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise errors.InternalError(f"{self.url}{path} answered no JSON object", hint="is this a Quilt platform?")
        return answer

    async def _nothing(self, method: str, path: str) -> None:
        from quilt_fn.transport import Request

        async with self._send(Request(method, path, timeout_s=CALL_TIMEOUT_S)) as reply:
            await reply.read()

    async def _lines(
        self,
        method: str,
        path: str,
        *,
        value: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        quiet_timeout_s: float | None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        from quilt_fn.transport import Request

        headers = {"Accept": NDJSON} | ({"Content-Type": "application/json"} if value is not None else {})
        data = json.dumps(value).encode() if value is not None else None
        request = Request(method, path, query or {}, headers, data, timeout_s=None, quiet_timeout_s=quiet_timeout_s)
        async with self._send(request) as reply:
            async for line in reply.lines():
                if line.strip():
                    yield json.loads(line)


def _id(text: str) -> str:
    return quote(text, safe="")


def _query(**values: Any) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}


async def paged(connection: Connection, path: str, things: str, model: type[BaseModel], **asked: Any) -> Page:
    """The page of a list's records that `asked` says: limit, cursor, and what the list is filtered by."""
    answer = await connection._json("GET", path, query=_query(**asked), safe=True)
    return Page([model.model_validate(item) for item in answer[things]], answer.get("next_cursor"))
