"""Every failure's way out: any exception → one error body, its HTTP status, and Retry-After where it has one.

Not here: the exceptions (`quilt_fn.errors`), nor a function's own failure (`gateway.responses` makes that one first).
"""

from __future__ import annotations

import logging
from typing import Any

import orjson
from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError

from gateway.logs import mask
from quilt_fn.errors import (
    Conflict,
    Forbidden,
    InternalError,
    InvalidRequest,
    InvalidValue,
    MethodNotAllowed,
    PayloadTooLarge,
    QuiltError,
    RangeNotSatisfiable,
    RouteNotFound,
    Unauthenticated,
    http_status,
)
from quilt_fn.model.validation import invalid_fields, shown

log = logging.getLogger("gateway")

DEFAULT_RETRY_AFTER_S = 1.0
"""Told to callers at 429 and 503 where nobody below said how long to wait."""


def error_body(error: QuiltError, request_id: str) -> dict[str, Any]:
    """The one shape of every error that Quilt answers."""
    return {
        "error": error.message,
        "error_code": error.error_code,
        "request_id": request_id,
        "details": error.details,
        "retry_after": _retry_after(error),
        "hint": error.hint,
    }


def _retry_after(error: QuiltError) -> float | None:
    """Seconds after which the same may go better; None where waiting does not help, as with what a user has to free."""
    if error.retry_after is None and error.retryable and http_status(error) in (429, 503):
        return DEFAULT_RETRY_AFTER_S
    return error.retry_after


def error_headers(error: QuiltError) -> dict[str, str]:
    """Retry-After in whole seconds (rounded up), Allow, Content-Range of a 416, and what a 401 has to name."""
    headers = {}
    retry_after = _retry_after(error)
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, -int(-retry_after // 1)))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="quilt"'
    if isinstance(error, MethodNotAllowed) and error.details and "allowed" in error.details:
        headers["Allow"] = ", ".join(error.details["allowed"])
    if isinstance(error, RangeNotSatisfiable) and error.details and "size" in error.details:
        headers["Content-Range"] = f"bytes */{error.details['size']}"
    return headers


def dump_error(error: QuiltError, request_id: str) -> bytes:
    """`error_body` as JSON; details that JSON does not know are shown as text."""
    return orjson.dumps(error_body(error, request_id), default=str)


def error_response(error: QuiltError, request_id: str) -> web.Response:
    """The response that `error` answers with."""
    headers = error_headers(error)
    headers["X-Request-Id"] = request_id
    return web.Response(
        body=dump_error(error, request_id),
        status=http_status(error),
        headers=headers,
        content_type="application/json",
    )


def as_quilt_error(exc: Exception, request: web.BaseRequest, request_id: str) -> QuiltError:
    """The QuiltError that stands for `exc`; what nobody expected is logged with the request's id and becomes a 500."""
    if isinstance(exc, QuiltError):
        known: QuiltError | None = exc
    elif isinstance(exc, web.HTTPException):
        known = _from_aiohttp(exc, request)
    elif isinstance(exc, (RequestPayloadError, HttpProcessingError, ClientError)):
        known = InvalidRequest(f"the request's body could not be read: {exc}")
    else:
        known = None
    if known is None:
        log.error(
            "unexpected %s", type(exc).__name__, exc_info=exc,
            extra={"request_id": request_id, "method": request.method, "path": mask(request.raw_path)},
        )  # fmt: skip
        return InternalError(
            "something went wrong inside the platform", hint=f"the node's log has it under {request_id}"
        )
    if http_status(known) >= 500 and type(known).__name__ in ("InternalError", "SpawnerError", "QuiltError"):
        log.error(
            "%s: %s", known.error_code, known.message, exc_info=exc,
            extra={"request_id": request_id, "method": request.method, "path": mask(request.raw_path)},
        )  # fmt: skip
    return known


def _from_aiohttp(exc: web.HTTPException, request: web.BaseRequest) -> QuiltError | None:
    path = request.rel_url.path
    if isinstance(exc, web.HTTPMethodNotAllowed):
        allowed = sorted(exc.allowed_methods)
        return MethodNotAllowed(
            f"{request.method} is not a method of {path}",
            details={"allowed": allowed},
            hint=f"try {', '.join(allowed)}",
        )
    if isinstance(exc, web.HTTPNotFound):
        return RouteNotFound(f"there is no route {path}", hint="docs/reference/http-api.md lists the routes")
    if isinstance(exc, web.HTTPRequestEntityTooLarge):
        return PayloadTooLarge("the body is larger than this node takes")
    by_status = {401: Unauthenticated, 403: Forbidden, 409: Conflict}
    if 400 <= exc.status < 500:
        return by_status.get(exc.status, InvalidRequest)(exc.reason)
    return None


def too_large(limit_bytes: int) -> PayloadTooLarge:
    """The body passed QUILT_MAX_BODY_MB."""
    return PayloadTooLarge(
        f"the body is larger than the {limit_bytes} bytes that this node takes",
        details={"limit_bytes": limit_bytes},
        hint="QUILT_MAX_BODY_MB sets the limit",
    )


def invalid_field(field: str, expected: str, got: object) -> InvalidValue:
    """A 422 about one field or query parameter."""
    return invalid_fields([{"field": field, "expected": expected, "got": shown(field, got)}])
