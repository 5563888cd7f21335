"""From a function's answer to an HTTP response: kinds to content types, failures to error bodies, chunks to a stream.

Not here: what the function is sent (`gateway.invoke`), nor the records of the invoke routes (`gateway.invocations`).
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import Any

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from gateway.errors import dump_error, error_headers
from pool.api import Served, Target
from quilt_fn.errors import (
    FunctionFailed,
    HandlerError,
    InvalidRequest,
    QuiltError,
    all_errors,
    http_status,
)
from runtime.api import Failure, Outcome

log = logging.getLogger("gateway")

JSON = "application/json"
CALL, RESULT = "application/vnd.quilt.call", "application/vnd.quilt.result"
EXCEPTION = "application/vnd.quilt.exception"
TEXT, OCTETS = "text/plain; charset=utf-8", "application/octet-stream"
LINES = "application/x-ndjson"
"""A stream of values, each a line of JSON."""
CONTENT_TYPES = {"json": JSON, "text": TEXT, "bytes": OCTETS, "pickle": RESULT}
LARGE_BYTES = 64 * 1024
"""Above this a response is not copied next to its head, and waits until the socket has taken it."""
ERROR_HEADER_BYTES = 5600
"""What X-Quilt-Error holds before base64: HTTP clients take header lines of 8 KiB."""
GONE_POLL_S = 1.0
"""How soon a stream notices that its client left while the function has nothing to say."""

_NO_BODY = frozenset({204, 205, 304})
_DROPPED = frozenset(
    {"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "te", "trailer", "transfer-encoding"}
    | {"upgrade", "content-length", "server-timing", "x-request-id"}
)
_ERRORS: dict[str, type[QuiltError]] = all_errors() | {"BAD_EVENT": InvalidRequest}


class _Dates:
    """The Date header's text, made once a second."""

    second = 0
    text = ""

    def at(self, now: float) -> str:
        if int(now) != self.second:
            self.second = int(now)
            self.text = formatdate(self.second, usegmt=True)
        return self.text


_dates = _Dates()


def gone(request: web.BaseRequest) -> bool:
    """Whether the client has left."""
    transport = request.transport
    return transport is None or transport.is_closing()


class ReadyResponse(web.StreamResponse):
    """A response whose bytes stand ready, written to the transport at once.

    It saves the header dictionary, its serialisation and four awaits of `web.Response`, a fifth of a warm invocation's
    cost in the gateway. Only for HTTP/1.1 requests with a method other than HEAD, on a connection that stays open.
    """

    def __init__(self, head: str, body: bytes) -> None:
        self._head = head.encode("latin-1")
        self._ready_body = body
        self._keep_alive = True
        self._status = int(head[9:12])

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has left")
        body = self._ready_body
        if len(body) <= LARGE_BYTES:
            transport.write(self._head + body)
        else:
            transport.writelines((self._head, body))
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Everything was written by `prepare`."""


class NoResponse(web.StreamResponse):
    """For a client that has left: aiohttp drops the connection without a word, where an exception would be logged."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        raise ConnectionResetError("the client has left")


def timing(served: Served) -> str:
    """The Server-Timing header of an invocation that has ended."""
    return f"queue;dur={served.queue_ms:.2f}, start;dur={served.start_ms:.2f}, run;dur={served.run_ms:.2f}"


async def respond(
    request: web.BaseRequest, target: Target, served: Served, request_id: str, *, trusted: bool, limit: str
) -> web.StreamResponse:
    """The response for `served`. `trusted`: the caller holds a key of the function's tenant, so tracebacks are shown.

    `limit` names what set the deadline, for a 504.
    """
    outcome = served.outcome
    if outcome.failure is not None:
        return _failed(served, outcome.failure, request_id, trusted=trusted, limit=limit)
    if (
        outcome.stream is None
        and not outcome.headers
        and outcome.status == 200
        and request.version == HttpVersion11
        and request.method != "HEAD"
        and request.keep_alive
    ):
        return ReadyResponse(
            f"HTTP/1.1 200 OK\r\nContent-Type: {CONTENT_TYPES[outcome.kind]}\r\nContent-Length: {len(outcome.body)}\r\n"
            f"Date: {_dates.at(time.time())}\r\nX-Quilt-Invocation-Id: {served.invocation_id}\r\n"
            f"X-Quilt-Start: {served.start.value}\r\nServer-Timing: {timing(served)}\r\n"
            f"X-Request-Id: {request_id}\r\n\r\n",
            outcome.body,
        )
    headers = _headers(outcome)
    _add_own(headers, served, request_id)
    if outcome.stream is not None:
        try:
            first = await _next_chunk(request, outcome.stream)
        except QuiltError as exc:  # nothing was promised yet, so this is an error like any other
            if outcome.failure is not None:
                return _failed(served, outcome.failure, request_id, trusted=trusted, limit=limit)
            return _error(served, exc, request_id)
        return await stream(request, outcome.status, headers, first, outcome.stream)
    headers["Server-Timing"] = timing(served)
    body = None if outcome.status in _NO_BODY else outcome.body
    return web.Response(body=body, status=outcome.status, headers=headers)


def failure_as_error(failure: Failure, *, traceback: bool, limit: str) -> QuiltError:
    """The QuiltError of a function's failure. A code that is in no table counts as FUNCTION_FAILED."""
    cls = _ERRORS.get(failure.code, FunctionFailed)
    details: dict[str, object] = {"type": failure.type, "message": failure.message}
    if traceback and failure.traceback:
        details["traceback"] = failure.traceback
    if failure.code == "INVOCATION_TIMEOUT":
        details["limit"] = limit
    text = f"{failure.type}: {failure.message}" if cls is HandlerError else failure.message
    return cls(text, details=details)


def _failed(served: Served, failure: Failure, request_id: str, *, trusted: bool, limit: str) -> web.Response:
    error = failure_as_error(failure, traceback=trusted, limit=limit)
    if failure.pickled is None or not trusted:
        return _error(served, error, request_id)
    headers = CIMultiDict(error_headers(error))
    _add_own(headers, served, request_id)
    headers["Server-Timing"] = timing(served)
    headers["Content-Type"] = EXCEPTION
    headers["X-Quilt-Error-Code"] = error.error_code
    headers["X-Quilt-Error"] = _error_header(error, request_id)
    return web.Response(body=failure.pickled, status=http_status(error), headers=headers)


def _error(served: Served, error: QuiltError, request_id: str) -> web.Response:
    headers = CIMultiDict(error_headers(error))
    _add_own(headers, served, request_id)
    headers["Server-Timing"] = timing(served)
    headers["Content-Type"] = JSON
    error.details = {**(error.details or {}), "invocation_id": served.invocation_id}
    return web.Response(body=dump_error(error, request_id), status=http_status(error), headers=headers)


def _error_header(error: QuiltError, request_id: str) -> str:
    """The error body in base64, its longest texts cut (tracebacks at their head) until it fits into a header."""
    details = dict(error.details or {})
    message = error.message
    room = ERROR_HEADER_BYTES
    while True:
        text = dump_error(type(error)(message, details=details, hint=error.hint), request_id)
        if len(text) <= ERROR_HEADER_BYTES:
            return base64.b64encode(text).decode()
        room //= 2
        message = message[: room // 4]
        for name, value in details.items():
            if isinstance(value, str):
                details[name] = value[-room:] if name == "traceback" else value[: room // 4]


def _add_own(headers: CIMultiDict[str], served: Served, request_id: str) -> None:
    headers["X-Quilt-Invocation-Id"] = served.invocation_id
    headers["X-Quilt-Start"] = served.start.value
    headers["X-Request-Id"] = request_id


def _headers(outcome: Outcome) -> CIMultiDict[str]:
    """The function's headers without those that are ours to set."""
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in outcome.headers:
        lower = name.lower()
        if lower not in _DROPPED and not lower.startswith("x-quilt-"):
            headers.add(name, value)
    if "Content-Type" not in headers and outcome.status not in _NO_BODY:
        lines = outcome.stream is not None and outcome.kind == "json"
        headers["Content-Type"] = LINES if lines else CONTENT_TYPES[outcome.kind]
    return headers


async def stream(
    request: web.BaseRequest,
    status: int,
    headers: CIMultiDict[str],
    chunk: bytes | None,
    chunks: AsyncIterator[bytes],
) -> web.StreamResponse:
    """Send `chunk`, and each that follows as it comes. A client that left ends the stream, which frees what gives it.

    Where it fails in the middle, the connection is cut before the last chunk, so that nobody takes the piece for the
    whole; of an invocation the record has the failure.
    """
    response = web.StreamResponse(status=status, headers=headers)
    try:
        await response.prepare(request)
        while chunk is not None:
            if chunk:
                await response.write(chunk)
            chunk = await _next_chunk(request, chunks)
        await response.write_eof()
    except QuiltError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("what was streamed failed in the middle") from None
    finally:
        await close(chunks)
    return response


async def _next_chunk(request: web.BaseRequest, stream: AsyncIterator[bytes]) -> bytes | None:
    """The next chunk, None at the end. Raises ConnectionResetError when the client is gone before it comes."""
    step = asyncio.ensure_future(_step(stream))
    try:
        while not step.done():
            await asyncio.wait((step,), timeout=GONE_POLL_S)
            if not step.done() and gone(request):
                raise ConnectionResetError("the client has left")
        return step.result()
    finally:
        if not step.done():
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)


async def _step(stream: AsyncIterator[bytes]) -> bytes | None:
    return await anext(stream, None)


async def close(stream: AsyncIterator[Any]) -> None:
    """End `stream` where it can be ended; idempotent."""
    aclose = getattr(stream, "aclose", None)
    if aclose is not None:
        await aclose()
