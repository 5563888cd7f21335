"""`/linx/<service id>/…`: a request from outside to the service that a container publishes, and its answer back.

Both bodies are streamed. The target is always the container's own address, whatever the request says. Not here: who
may (`pool.network.published`), and functions' endpoints (`gateway.invoke`).
"""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, WSMsgType, hdrs, web
from aiohttp.client_exceptions import ClientConnectorError, WSServerHandshakeError
from multidict import CIMultiDict
from yarl import URL

from gateway import forwarding
from gateway.auth import bearer
from gateway.context import REQUEST_ID, Services
from pool.network.api import Door
from quilt_fn.errors import QuiltError, Unavailable

INGRESS_PATH = r"/linx/{service_id:lnx_[0-9a-f]+}{path:(/.*)?}"
CONNECT_S = 5.0
CHUNK = 64 * 1024
MESSAGE_LIMIT_BYTES = 16 << 20
"""Of one websocket message."""
HEARTBEAT_S = 30.0


class Ingress:
    """`close` ends what is under way."""

    def __init__(self, services: Services) -> None:
        self._platform = services.platform
        self._session: ClientSession | None = None

    async def serve(self, request: web.Request) -> web.StreamResponse:
        service_id = request.match_info["service_id"]
        door = self._platform.services.door(service_id, _tokens(request, service_id))
        prefix = f"/linx/{service_id}"
        path = request.rel_url.raw_path.removeprefix(prefix)
        if not path:
            query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
            return web.Response(status=308, headers={"Location": f"{prefix}/{query}"})
        headers = forwarding.to_container(request, prefix)
        url = URL.build(
            scheme="http", host=door.address, port=door.port, path=path,
            query_string=forwarding.query_without_token(request.rel_url.raw_query_string), encoded=True,
        )  # fmt: skip
        if _wants_websocket(request):
            return await self._websocket(request, door, url, headers)
        return await self._plain(request, door, url, headers, prefix)

    async def _plain(
        self, request: web.Request, door: Door, url: URL, headers: CIMultiDict[str], prefix: str
    ) -> web.StreamResponse:
        session = self._session_of()
        body = request.content.iter_chunked(CHUNK) if request.body_exists else None
        try:
            upstream = await session.request(
                request.method, url, headers=headers, data=body, allow_redirects=False, skip_auto_headers=_QUIET
            )
        except (ClientError, TimeoutError, OSError) as error:
            raise _failed(error, door) from error
        try:
            answer = web.StreamResponse(status=upstream.status, reason=upstream.reason)
            answer.headers.extend(forwarding.from_container(upstream.headers, prefix))
            answer.headers["X-Request-Id"] = request[REQUEST_ID]
            _keep_token(request, answer, door, prefix)
            await answer.prepare(request)
            try:
                async for chunk in upstream.content.iter_any():
                    await answer.write(chunk)
            except (ClientError, TimeoutError) as error:
                if request.transport is not None:  # so that nobody takes the piece for the whole
                    request.transport.abort()
                raise ConnectionResetError("the service failed in the middle of its answer") from error
            await answer.write_eof()
            return answer
        finally:
            upstream.close()

    async def _websocket(
        self, request: web.Request, door: Door, url: URL, headers: CIMultiDict[str]
    ) -> web.StreamResponse:
        protocols = [p.strip() for p in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",") if p.strip()]
        for name in [name for name in headers if name.lower().startswith("sec-websocket-")]:
            del headers[name]
        try:
            inner = await self._session_of().ws_connect(
                url, headers=headers, protocols=protocols, max_msg_size=MESSAGE_LIMIT_BYTES, heartbeat=HEARTBEAT_S
            )
        except WSServerHandshakeError as error:
            raise Unavailable(f"the service takes no websocket here: it answered {error.status}") from error
        except (ClientError, TimeoutError, OSError) as error:
            raise _failed(error, door) from error
        async with inner:
            outer = web.WebSocketResponse(
                protocols=[inner.protocol] if inner.protocol else (), max_msg_size=MESSAGE_LIMIT_BYTES,
                heartbeat=HEARTBEAT_S,
            )  # fmt: skip
            outer.headers["X-Request-Id"] = request[REQUEST_ID]
            await outer.prepare(request)
            pumps = [asyncio.ensure_future(_pump(outer, inner)), asyncio.ensure_future(_pump(inner, outer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                with contextlib.suppress(ConnectionError, RuntimeError):
                    await outer.close(code=_code(inner.close_code))
        return outer

    def _session_of(self) -> ClientSession:
        """Nothing is kept between requests: an address may be another container's by then."""
        if self._session is None:
            self._session = ClientSession(
                connector=TCPConnector(limit=0, force_close=True), cookie_jar=DummyCookieJar(), auto_decompress=False,
                timeout=ClientTimeout(total=None, sock_connect=CONNECT_S), trust_env=False,
            )  # fmt: skip
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


INGRESS = web.AppKey("ingress", Ingress)
_QUIET = (hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE)


def _tokens(request: web.Request, service_id: str) -> list[str]:
    """Every token that the request carries, wherever."""
    found = (
        request.headers.get(forwarding.X_QUILT_TOKEN),
        bearer(request.headers.get(hdrs.AUTHORIZATION)),
        request.query.get("token"),
        request.cookies.get(forwarding.COOKIE + service_id),
    )
    return [token for token in found if token]


def _keep_token(request: web.Request, answer: web.StreamResponse, door: Door, prefix: str) -> None:
    """A page that was opened with ?token= asks for the rest of itself without one."""
    token = request.query.get("token", "")
    if forwarding.is_token(token):
        answer.set_cookie(
            forwarding.COOKIE + door.service_id, token, path=f"{prefix}/", httponly=True, samesite="Lax",
            secure=request.secure,
        )  # fmt: skip


def _wants_websocket(request: web.Request) -> bool:
    return request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"


def _failed(error: BaseException, door: Door) -> QuiltError:
    if isinstance(error, ClientConnectorError | TimeoutError):
        return Unavailable(
            f"nothing listens on port {door.port} of the service's container", retry_after=1,
            hint="The program must listen on 0.0.0.0 or on the container's own address, not on 127.0.0.1 alone.",
        )  # fmt: skip
    return Unavailable(f"the service hung up before it answered: {error}"[:300], retry_after=1)


async def _pump(source: object, target: object) -> None:
    """Messages from one websocket to the other, until the first has ended."""
    assert isinstance(source, web.WebSocketResponse) or hasattr(source, "receive")
    async for message in source:  # type: ignore[attr-defined]
        if message.type is WSMsgType.TEXT:
            await target.send_str(message.data)  # type: ignore[attr-defined]
        elif message.type is WSMsgType.BINARY:
            await target.send_bytes(message.data)  # type: ignore[attr-defined]


def _code(found: int | None) -> int:
    """A close code that may be sent: those that only report a lost connection may not."""
    return found if found is not None and (1000 <= found <= 1003 or 1007 <= found <= 4999) and found != 1015 else 1001
