"""Commands and terminals in containers from the client's side: streams of frames both ways, and the websocket.

Not here: the terminal of this machine (`quilt_fn.cli.shell`), exec to the end (a plain request).
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from quilt_fn import errors
from quilt_fn.errors import QuiltError, SessionNotFound, Unavailable
from quilt_fn.transport import CONNECT_TIMEOUT_S, translate

if TYPE_CHECKING:
    import aiohttp

NDJSON = "application/x-ndjson"
LINE_LIMIT_BYTES = 1 << 20


class Commands:
    """A session of its own with the platform at `url`; use it as an async context manager, on one loop."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self.url = url.rstrip("/")
        self._headers = {"X-Api-Key": api_key} if api_key else {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Commands:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False, read_bufsize=LINE_LIMIT_BYTES)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def container_id(self, name: str) -> str:
        """Of the container with that name, or that id. Raises ContainerNotFound."""
        try:
            found = await self.json("GET", f"/api/containers/by-name/{quote(name, safe='')}")
        except errors.ContainerNotFound:
            if not name.startswith("ctr_"):
                raise
            found = await self.json("GET", f"/api/containers/{quote(name, safe='')}")
        return str(found["container_id"])

    async def json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A plain request. Raises the error that the gateway raised, or Unavailable."""
        async with self._ask(method, path, json=body) as response:
            value: dict[str, Any] = json.loads(await response.read())
            return value

    @asynccontextmanager
    async def stream(
        self, container_id: str, body: Mapping[str, Any], stdin: AsyncIterator[bytes]
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The frames of a command, whose stdin is passed on as it comes. Leaving the context ends the command."""

        async def lines() -> AsyncIterator[bytes]:
            yield json.dumps(body).encode() + b"\n"
            async for piece in stdin:
                yield b'{"data_b64":"' + base64.b64encode(piece) + b'"}\n'

        path = f"/api/containers/{quote(container_id, safe='')}/stream"
        async with self._ask("POST", path, data=lines(), headers={"Content-Type": NDJSON}) as response:
            yield self._frames(response)

    async def _frames(self, response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
        import aiohttp

        rest = b""
        try:
            async for piece in response.content.iter_any():
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    yield json.loads(line)
        except (aiohttp.ClientError, OSError) as error:
            raise translate(error, self.url) from error

    def attach(self, attach_url: str) -> AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
        """The websocket of a terminal. Raises as the gateway does."""
        return self._attach(attach_url)

    @asynccontextmanager
    async def _attach(self, attach_url: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        import aiohttp

        assert self._session is not None
        try:
            socket = await self._session.ws_connect(
                self.url + attach_url, protocols=("terminal",), headers=self._headers, heartbeat=30, max_msg_size=0
            )
        except aiohttp.WSServerHandshakeError as error:
            if error.status == 404:
                raise SessionNotFound("there is no such terminal session, or it has ended") from error
            raise Unavailable(f"the terminal answered {error.status} instead of attaching") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise translate(error, self.url) from error
        async with socket:
            yield socket

    @asynccontextmanager
    async def _ask(self, method: str, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        import aiohttp

        assert self._session is not None
        headers = {**self._headers, **options.pop("headers", {})}
        try:
            response = await self._session.request(method, self.url + path, headers=headers, **options)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise translate(error, self.url) from error
        async with response:
            if response.status >= 400:
                raise await _refusal(response)
            yield response


async def _refusal(response: aiohttp.ClientResponse) -> QuiltError:
    try:
        body = json.loads(await response.read())
    except ValueError:
        return Unavailable(f"the platform answered {response.status} and no JSON")
    return errors.from_body(body)
