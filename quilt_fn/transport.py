"""The one seam to the network: requests out, replies in, and every low-level error as one of ours.

Not here: what a status or a body means (`client`). Another Transport makes every test possible without a socket.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from quilt_fn.errors import InvalidValue, QuiltError, Unavailable

if TYPE_CHECKING:
    import aiohttp

CONNECT_TIMEOUT_S = 10.0
HEADER_LIMIT_BYTES = 256 * 1024
"""X-Quilt-Error carries a traceback: more than aiohttp's 8 KiB."""
CONNECTIONS = 100


@dataclass(frozen=True, slots=True)
class Request:
    """`timeout_s` is for the whole answer; with `quiet_timeout_s` instead, for each wait between two pieces of it."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | AsyncIterable[bytes] | None = field(default=None, repr=False)
    """Pieces are sent as they come, and can't be sent twice."""
    timeout_s: float | None = 60.0
    quiet_timeout_s: float | None = None

    @property
    def repeatable(self) -> bool:
        """Whether it can be sent again, as it is."""
        return self.body is None or isinstance(self.body, bytes)


class Reply(Protocol):
    """An answer whose head has come."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """By name, in any case."""
        ...

    async def read(self) -> bytes:
        """The whole body. Raises Unavailable where it breaks off."""
        ...

    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises Unavailable where it breaks off."""
        ...

    def lines(self) -> AsyncIterator[bytes]:
        """The body line by line, as it comes. Raises Unavailable where it breaks off."""
        ...


class Transport(Protocol):
    def send(self, request: Request) -> AbstractAsyncContextManager[Reply]:
        """Raises Unavailable (nobody answers, or not in time) and InvalidValue (no such URL), and no other error."""
        ...

    async def close(self) -> None:
        """Idempotent; a later `send` opens anew."""
        ...


def translate(error: Exception, base_url: str) -> QuiltError:
    """Our error for one of aiohttp's, asyncio's or the system's."""
    import aiohttp

    if isinstance(error, (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)):
        return InvalidValue(f"{base_url} is not a URL of a platform", hint="QUILT_URL looks like http://127.0.0.1:8420")
    if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
        return Unavailable(f"no safe connection to {base_url}: {error}")
    if isinstance(error, aiohttp.ClientConnectorError):
        return Unavailable(
            f"no platform answers at {base_url}: {error.strerror or error}",
            hint="start one with `quilt up`, or name another in QUILT_URL",
        )
    if isinstance(error, (TimeoutError, aiohttp.ServerTimeoutError)):
        return Unavailable(f"{base_url} did not answer in time", hint="`quilt status` says how it is")
    if isinstance(error, (aiohttp.ClientError, OSError)):
        return Unavailable(
            f"the connection to {base_url} broke: {error or type(error).__name__}",
            hint="what was asked for may have been done or not; `quilt status` says how the platform is",
        )
    raise error


class AioHttpTransport:
    """HTTP by aiohttp. The session is opened by the first request, on the loop that this runs on."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncGenerator[Reply, None]:
        import aiohttp

        timeout = aiohttp.ClientTimeout(
            total=None if request.quiet_timeout_s else request.timeout_s,
            sock_read=request.quiet_timeout_s,
            sock_connect=CONNECT_TIMEOUT_S,
        )
        try:
            response = await self._open().request(
                request.method,
                self._base_url + request.path,
                params=request.query or None,
                headers=request.headers,
                data=request.body,
                timeout=timeout,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise translate(error, self._base_url) from error
        async with response:
            yield _AioHttpReply(response, self._base_url)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None and self._loop is asyncio.get_running_loop():
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._loop = loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=30),
                max_line_size=HEADER_LIMIT_BYTES,
                max_field_size=HEADER_LIMIT_BYTES,
                auto_decompress=True,
                trust_env=False,
            )
        return self._session


class _AioHttpReply:
    def __init__(self, response: aiohttp.ClientResponse, base_url: str) -> None:
        self._response = response
        self._base_url = base_url

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    async def read(self) -> bytes:
        import aiohttp

        try:
            return await self._response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise translate(error, self._base_url) from error

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        import aiohttp

        try:
            async for piece in self._response.content.iter_any():
                yield piece
        except (aiohttp.ClientError, OSError) as error:
            raise translate(error, self._base_url) from error

    async def lines(self) -> AsyncGenerator[bytes, None]:
        # Not readline: it refuses lines beyond its buffer's limit, and a record may have megabytes.
        rest = bytearray()
        async for piece in self.pieces():
            rest += piece
            *whole, last = rest.split(b"\n")
            for line in whole:
                yield bytes(line)
            rest = bytearray(last)
        if rest:
            yield bytes(rest)
