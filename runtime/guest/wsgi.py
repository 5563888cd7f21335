"""A WSGI app as a handler: each invocation is one request below the function's own path.

Not here: how results travel (`handler.deliver`). An invocation that did not come by HTTP is a POST of its event to `/`.
"""

from __future__ import annotations

import io
import sys

from .context import Request
from .failure import fail
from .response import Reply, read_headers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from .context import StaticInfo
    from .failure import Send

    Write = Callable[[bytes], None]


def request_of(meta: dict[str, Any], body: bytes) -> Request:
    """The request of an invocation, made up where it came by another way."""
    raw = meta.get("req") or {"method": "POST", "path": "/", "headers": [["Content-Type", "application/json"]]}
    return Request(raw, body)


class WsgiApp:
    """`app` behind PEP 3333. A body whose length the app has declared goes out whole, any other as it comes."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app = app

    def serve(self, meta: dict[str, Any], body: bytes, send: Send, static: StaticInfo) -> None:
        from .handler import deliver

        try:
            reply = self._reply(request_of(meta, body), static)
        except BaseException as error:
            fail(send, error)
            return
        deliver(reply, send, static.result_limit)

    def _reply(self, request: Request, static: StaticInfo) -> Reply:
        started: list[tuple[str, list[tuple[str, str]]]] = []
        written: list[bytes] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Write:
            if started and exc_info is None:
                raise AssertionError("start_response was called twice")
            started[:] = [(status, list(headers))]
            return written.append

        result = self.app(environ_of(request, static), start_response)
        pieces = _pieces(result, written)
        first = next(pieces, b"")  # an app may call start_response only when it is asked for its first piece
        if not started:
            pieces.close()
            raise RuntimeError("the app returned without calling start_response")
        status, headers = started[0]
        reply = Reply("bytes", b"")
        reply.status = int(status.split(" ", 1)[0])
        reply.headers = read_headers(headers)
        if isinstance(result, (list, tuple)) or any(name.lower() == "content-length" for name, _ in headers):
            reply.body = first + b"".join(pieces)
        else:
            reply.stream = _again(first, pieces)
        return reply


def _pieces(result: Iterable[bytes], written: list[bytes]) -> Any:
    try:
        for piece in result:
            while written:
                yield written.pop(0)
            if piece:
                yield piece
        yield from written
    finally:
        close = getattr(result, "close", None)
        if close is not None:
            close()


def _again(first: bytes, rest: Any) -> Iterator[bytes]:
    try:
        if first:
            yield first
        yield from rest
    finally:
        rest.close()


def environ_of(request: Request, static: StaticInfo) -> dict[str, Any]:
    """The request as PEP 3333 has it: text in it is bytes read as latin-1."""
    host, _, port = request.headers.get("host", "localhost").rpartition(":")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": _latin(request.root_path or f"/fn/{static.function_name}"),
        "PATH_INFO": _latin(request.path),
        "QUERY_STRING": request.query_string,
        "SERVER_NAME": host or port,
        "SERVER_PORT": port if host else "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": str(request.remote or ""),
        "CONTENT_LENGTH": str(len(request.body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.headers.get("x-forwarded-proto", "http"),
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in request.headers.pairs:
        key = name.upper().replace("-", "_")
        if key == "CONTENT_TYPE":
            environ[key] = value
        elif key != "CONTENT_LENGTH":
            key = f"HTTP_{key}"
            environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ


def _latin(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("latin-1")
