"""ANY /fn/<name>[/<path>]: an HTTP request to a function and its answer. The hot path: no router, models or copies.

Not here: the invoke routes of the API, which answer with records (`gateway.invocations`).
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import orjson
from aiohttp import web
from multidict import istr

from gateway import body as bodies
from gateway.auth import AUTHORIZATION, X_API_KEY, bearer, missing, wrong
from gateway.context import Services, sane_request_id
from gateway.errors import as_quilt_error, error_response, invalid_field, too_large
from gateway.responses import CALL, NoResponse, gone, respond
from pool.api import Caller, Target
from quilt_fn.errors import Forbidden, FunctionNotFound, InvalidRequest, PythonMismatch, QuiltError
from runtime.api import Call

PREFIX = "/fn/"
CONTENT_TYPE, EXPECT = istr("Content-Type"), istr("Expect")
TIMEOUT, X_REQUEST_ID = istr("X-Quilt-Timeout-S"), istr("X-Request-Id")
X_QUILT_PYTHON = istr("X-Quilt-Python")
Kind = Literal["json", "text", "pickle", "none"]
_OF_THE_OWNER = frozenset({"traceback", "output"})
"""Details of a start that failed which show the function's code: for its own tenant."""
_KEY_PREFIX = "quilt_sk_"
_NOT_PASSED_ON = frozenset({"x-api-key", "connection", "keep-alive", "transfer-encoding", "upgrade", "te", "expect"})


class Invoker:
    """Serves every request below /fn/. `serve` takes the raw request, before any router saw it."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._platform = services.platform
        self._max_body_bytes = services.max_body_bytes
        self._limits = services.limits
        self._next_id = services.ids.next

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        number = self._next_id()
        given = request.headers.get(X_REQUEST_ID)
        request_id = (given is not None and sane_request_id(given)) or "req_" + number
        try:
            return await self._serve(request, "inv_" + number, request_id)
        except Exception as exc:
            if isinstance(exc, ConnectionError) and gone(request):
                return NoResponse()
            return error_response(as_quilt_error(exc, request, request_id), request_id)

    async def _serve(self, request: web.BaseRequest, invocation_id: str, request_id: str) -> web.StreamResponse:
        raw_path = request.raw_path
        if not raw_path.startswith(PREFIX):  # absolute form, as proxies send it
            raw_path = request.rel_url.raw_path_qs
        name, _, _ = raw_path.partition("?")[0][len(PREFIX) :].partition("/")
        caller, target = await self._find(request, name)
        if self._limits is not None and caller is not None:
            self._limits.take(caller.key_id)
        trusted = caller is not None and caller.tenant_id == target.tenant_id

        headers = request.headers
        content_type = headers.get(CONTENT_TYPE)
        is_call = content_type is not None and content_type.partition(";")[0].strip().lower() == CALL
        if is_call and not trusted:
            raise Forbidden(
                "a pickled call needs a key of the function's own tenant, also where the function is public",
                hint="a pickle is code: send JSON, or the owner's key",
            )
        if is_call:
            _check_python(headers.get(X_QUILT_PYTHON), target)
        payload = request.content
        if payload.is_eof():  # it came with the headers
            body = payload.read_nowait(-1)
            if len(body) > self._max_body_bytes:
                raise too_large(self._max_body_bytes)
        else:
            if headers.get(EXPECT) is not None:
                await _go_on(request)
            body = await bodies.read(request, self._max_body_bytes)
        kind: Kind = "pickle"
        if not is_call:
            kind, body = event(request, content_type, body, as_sent=target.wants_request)

        timeout, limit = target.timeout_seconds, "timeout_seconds"
        asked = headers.get(TIMEOUT)
        if asked is not None:
            asked_s = _seconds(asked)
            if asked_s < timeout:
                timeout, limit = asked_s, "X-Quilt-Timeout-S"
        call = Call(invocation_id, kind, body, time.time() + timeout)
        if target.wants_request:
            call.request = meta(request, name, lambda token: self._is_ours(token, headers, caller))
        try:
            served = await self._platform.invoke(target, call)
        except QuiltError as exc:
            shown = (exc.details or {}).items()
            exc.details = {key: value for key, value in shown if trusted or key not in _OF_THE_OWNER}
            exc.details["invocation_id"] = invocation_id
            raise
        return await respond(request, target, served, request_id, trusted=trusted, limit=limit)

    def _is_ours(self, token: str, headers: Mapping[str, str], caller: Caller | None) -> bool:
        """Whether a bearer token is a key of the platform: it looks like one, the caller came by it, or it is known."""
        given = headers.get(X_API_KEY)
        if token.startswith(_KEY_PREFIX) or token == given:
            return True
        return (caller is not None and given is None) or self._platform.authenticate_cached(token) is not None

    async def _find(self, request: web.BaseRequest, name: str) -> tuple[Caller | None, Target]:
        """Who calls what. A bearer token that is no key of ours belongs to a public function's own users."""
        platform = self._platform
        headers = request.headers
        key = headers.get(X_API_KEY)
        ours = key is not None
        if key is None:
            key = bearer(headers.get(AUTHORIZATION))
            if key is None:
                target = platform.resolve(None, name)
                if target is None:
                    raise missing()
                return None, target
            ours = key.startswith(_KEY_PREFIX)
        caller = platform.authenticate_cached(key) or await platform.authenticate(key)
        if caller is not None:
            target = platform.resolve(caller.tenant_id, name) or platform.resolve(None, name)
            if target is None:
                raise FunctionNotFound(f"there is no function named {name!r}", hint="`quilt functions list` names them")
            return caller, target
        target = None if ours else platform.resolve(None, name)
        if target is None:
            raise wrong()
        return None, target


async def _go_on(request: web.BaseRequest) -> None:
    """Answer `Expect: 100-continue`, as the router would have."""
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # so that an error after it can still be answered


def _check_python(pickled_by: str | None, target: Target) -> None:
    """Raises PythonMismatch where a call says which Python pickled it, and that is not the function's."""
    if pickled_by is None or target.python is None or pickled_by == target.python:
        return
    raise PythonMismatch(
        f"the call was pickled by Python {pickled_by[:20]}, but function {target.function_name!r} runs on Python "
        f"{target.python}",
        details={"call": pickled_by[:20], "function": target.python},
        hint=f"call it from Python {target.python}, or with JSON: `quilt invoke`, Client.invoke or its URL",
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 86_400:
        raise invalid_field(TIMEOUT, "seconds above 0", text)
    return value


def event(request: web.BaseRequest, content_type: str | None, body: bytes, *, as_sent: bool) -> tuple[Kind, bytes]:
    """What the handler gets, and how the guest is to read it. Raises InvalidRequest where the body is not what it says.

    No body: the query as a dict. JSON: as it came. text/*: text. Anything else: JSON where it is JSON, text where it is
    UTF-8, and otherwise Lambda's `{"isBase64Encoded": true, "body": base64, "content_type": …}`. With `as_sent` the
    function sees the request too (its context, or it is a whole web app), so the body stays byte for byte as it came.
    """
    if not body:
        if as_sent:
            return "none", b""  # the guest takes the event from the request's query
        return "json", orjson.dumps(dict(request.query.items())) if "?" in request.raw_path else b"{}"
    media = content_type.partition(";")[0].strip().lower() if content_type else ""
    if media == "application/json" or media.endswith("+json"):
        try:
            orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            raise InvalidRequest(
                f"the body is not JSON: {exc}", details={"position": exc.pos}, hint="or send it as text/plain"
            ) from None
        return "json", body
    if media.startswith("text/"):
        return "text", body if as_sent else _utf8(request, body)
    try:
        orjson.loads(body)
        return "json", body
    except orjson.JSONDecodeError:
        pass
    if as_sent:
        return "text", body
    try:
        body.decode()
        return "text", body
    except UnicodeDecodeError:
        wrapped = {"isBase64Encoded": True, "body": base64.b64encode(body).decode(), "content_type": media or None}
        return "json", orjson.dumps(wrapped)


def _utf8(request: web.BaseRequest, body: bytes) -> bytes:
    charset = request.charset or "utf-8"
    try:
        text = body.decode(charset)
    except (UnicodeDecodeError, LookupError) as exc:
        raise InvalidRequest(f"the body is not text in {charset}: {exc}") from None
    return text.encode()


def meta(request: web.BaseRequest, name: str, is_ours: Callable[[str], bool]) -> dict[str, Any]:
    """The request as the handler's context shows it, without credentials of the platform. `query` is the raw text.

    `is_ours` says whether a bearer token is a key of the platform; any other Authorization is the function's own.
    """
    path = request.rel_url.path
    start = path.find("/", len(PREFIX))
    headers = []
    unpacked = request.headers.get("Content-Encoding") is not None  # the body that is handed on no longer is
    for field, value in request.headers.items():
        lower = field.lower()
        if unpacked and lower in ("content-encoding", "content-length"):
            continue
        if lower in _NOT_PASSED_ON or lower.startswith("x-quilt-"):
            continue
        if lower == "authorization" and (token := bearer(value)) is not None and is_ours(token):
            continue
        headers.append([field, value])
    return {
        "method": request.method,
        "path": path[start:] if start >= 0 else "/",
        "root_path": PREFIX + name,
        "query": request.rel_url.raw_query_string,
        "headers": headers,
        "remote": request.remote,
    }
