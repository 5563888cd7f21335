"""A client of a gateway that really listens, on loopback, over any Platform.

Not here: assertions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from gateway.server import bind, listening
from pool.api import Platform
from quilt_fn.settings import Settings
from tests.fakes_gateway.platform import KEY


@dataclass(frozen=True, slots=True)
class Reply:
    """A response that was read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def code(self) -> str:
        """The error_code, with the shape of the error body checked on the way."""
        value = self.json
        assert set(value) == {"error", "error_code", "request_id", "details", "retry_after", "hint"}, value
        assert value["request_id"] == self.headers["X-Request-Id"]
        return str(value["error_code"])


@dataclass(frozen=True, slots=True)
class Http:
    session: aiohttp.ClientSession
    url: str

    async def __call__(self, method: str, path: str, *, key: str | None = KEY, **options: Any) -> Reply:
        headers = dict(options.pop("headers", {}))
        if key is not None:
            headers.setdefault("X-Api-Key", key)
        async with self.session.request(method, self.url + path, headers=headers, **options) as response:
            return Reply(response.status, response.headers, await response.read())


@asynccontextmanager
async def serving(platform: Platform, **settings: Any) -> AsyncIterator[Http]:
    """A gateway on a free port, and its client."""
    values = Settings(**{"port": 0, "shutdown_seconds": 1.0} | settings)
    async with (
        listening(platform, values, bind(values)) as here,
        aiohttp.ClientSession(skip_auto_headers={"Content-Type"}) as session,
    ):
        yield Http(session, here.url)
