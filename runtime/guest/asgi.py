"""An ASGI app as a handler (HTTP, and lifespan's startup when it is loaded): each invocation is one request.

The result is complete when the app's call has returned, background tasks and all, because an instance that has answered
may be given its next call. Not here: websockets; how results travel (`handler.deliver`).
"""

from __future__ import annotations

import asyncio

from . import loop, wire
from .context import Request
from .failure import fail, flush_output
from .response import Reply, read_headers
from .wsgi import request_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from .context import StaticInfo
    from .failure import Send

    Event = dict[str, Any]

VERSION = {"version": "3.0", "spec_version": "2.3"}


class AsgiApp:
    """`app` behind ASGI 3. Raises RuntimeError where its startup says that it failed."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app
        self.state: dict[str, Any] = {}
        self._lifespan: asyncio.Task[None] | None = None
        loop.run(self._start())

    async def _start(self) -> None:
        """An app that does not know lifespan raises, which the specification takes for "go on without"."""
        started: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        asked = False

        async def receive() -> Event:
            nonlocal asked
            if asked:
                await asyncio.get_running_loop().create_future()
            asked = True
            return {"type": "lifespan.startup"}

        async def send(event: Event) -> None:
            if started.done():
                return
            if event["type"] == "lifespan.startup.complete":
                started.set_result(None)
            elif event["type"] == "lifespan.startup.failed":
                started.set_result(str(event.get("message") or "the app's startup failed"))

        async def live() -> None:
            try:
                await self.app({"type": "lifespan", "asgi": VERSION, "state": self.state}, receive, send)
            except Exception:
                if started.done():
                    raise
            finally:
                if not started.done():
                    started.set_result(None)

        self._lifespan = loop.background(live())
        failure = await started
        if failure is not None:
            self._lifespan.cancel()
            raise RuntimeError(failure)

    def serve(self, meta: dict[str, Any], body: bytes, send: Send, static: StaticInfo) -> None:
        exchange = Exchange(request_of(meta, body), static, send, dict(self.state))
        try:
            loop.run(self.app(exchange.scope, exchange.receive, exchange.send))
            exchange.finish()
        except _SendFailed as broken:
            raise broken.error from None
        except BaseException as error:
            fail(send, error)


def _bytes(text: str) -> bytes:
    return text.encode("latin-1", "replace")


class _SendFailed(BaseException):
    """The way to the node is gone: not the app's fault, so it must not become a FAIL, nor be caught by the app."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class Exchange:
    """One request and its answer: whole where the app sends one body, a stream where it says that more comes."""

    def __init__(self, request: Request, static: StaticInfo, send: Send, state: dict[str, Any]) -> None:
        self._frames = send
        self._limit = static.result_limit
        self._body: bytes | None = request.body
        self._reply: Reply | None = None
        self._streams = False
        self._complete = asyncio.Event()
        root_path = request.root_path or f"/fn/{static.function_name}"
        path = root_path + request.path
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": VERSION,
            "http_version": "1.1",
            "method": request.method.upper(),
            "scheme": request.headers.get("x-forwarded-proto", "http"),
            "path": path,
            "raw_path": path.encode("utf-8", "surrogateescape"),
            "query_string": request.query_string.encode("utf-8", "surrogateescape"),
            "root_path": root_path,
            "headers": [(_bytes(name.lower()), _bytes(value)) for name, value in request.headers.pairs],
            "client": (str(request.remote), 0) if request.remote else None,
            "server": None,
            "state": state,
        }

    async def receive(self) -> Event:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._complete.wait()
        return {"type": "http.disconnect"}

    async def send(self, event: Event) -> None:
        kind = event["type"]
        if kind == "http.response.start":
            if self._reply is not None:
                raise RuntimeError("http.response.start was sent twice")
            self._reply = Reply("bytes", b"")
            self._reply.status = int(event["status"])
            self._reply.headers = read_headers(event.get("headers") or ())
        elif kind == "http.response.body":
            self._take(bytes(event.get("body") or b""), bool(event.get("more_body")))
        else:
            raise RuntimeError(f"{kind} is not served here")

    def _take(self, body: bytes, more: bool) -> None:
        if self._reply is None:
            raise RuntimeError("http.response.body came before http.response.start")
        if self._complete.is_set():
            raise RuntimeError("http.response.body came after the end of the response")
        if more and not self._streams:
            self._streams = True
            meta = {"status": self._reply.status, "headers": self._reply.headers, "kind": "bytes", "stream": True}
            self._frame(wire.RESULT, meta, b"")
        if not self._streams:
            self._reply.body = body
        elif body:
            self._frame(wire.CHUNK, {}, body)
        if not more:
            self._complete.set()

    def _frame(self, kind: int, meta: Event, body: bytes) -> None:
        try:
            self._frames(kind, meta, body)
        except BaseException as error:
            raise _SendFailed(error) from None

    def finish(self) -> None:
        """After the app's call: what is left to be sent."""
        from .handler import deliver

        if self._reply is None or not self._complete.is_set():
            raise RuntimeError("the app returned without a complete response")
        try:
            if self._streams:
                flush_output()
                self._frames(wire.END, {}, b"")
            else:
                deliver(self._reply, self._frames, self._limit)
        except BaseException as error:
            raise _SendFailed(error) from None
