"""A request's body, in whole: within the limit, parsed, and checked against a model.

Not here: bodies that are streamed on (`gateway.bundles`) or handed to a function as they are (`gateway.invoke`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel, ValidationError

from gateway.errors import too_large
from quilt_fn.errors import InvalidRequest, InvalidValue
from quilt_fn.model.validation import from_validation

READ = web.RequestKey("read", bytes)
"""The body, where somebody has read it before its handler."""
DIGEST: web.RequestKey[Any] = web.RequestKey("digest", object)
"""A hash that `pieces` updates with what it hands out, where somebody wants it."""

M = TypeVar("M", bound=BaseModel)


async def read(request: web.BaseRequest, limit_bytes: int) -> bytes:
    """The whole body. Raises PayloadTooLarge, before reading where Content-Length says it already."""
    if READ in request:
        return request[READ]
    announced = request.content_length
    if announced is not None and announced > limit_bytes:
        raise too_large(limit_bytes)
    payload = request.content
    if payload.is_eof():  # it came with the headers: nothing to wait for
        body = payload.read_nowait(-1)
        if len(body) > limit_bytes:
            raise too_large(limit_bytes)
        return body
    parts = []
    size = 0
    while part := await payload.readany():
        size += len(part)
        if size > limit_bytes:
            raise too_large(limit_bytes)
        parts.append(part)
    return b"".join(parts)


async def pieces(request: web.BaseRequest, limit_bytes: int) -> AsyncIterator[bytes]:
    """The body as it comes. Raises PayloadTooLarge once it passes the limit."""
    announced = request.content_length
    if announced is not None and announced > limit_bytes:
        raise too_large(limit_bytes)
    size = 0
    digest = request.get(DIGEST)
    while part := await request.content.readany():
        size += len(part)
        if size > limit_bytes:
            raise too_large(limit_bytes)
        if digest is not None:
            digest.update(part)
        yield part


def parse(model: type[M], body: bytes) -> M:
    """`body` as JSON and as `model`. No body counts as `{}`. Raises InvalidRequest (no JSON), InvalidValue (shape)."""
    try:
        value = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"the body is not JSON: {exc}", details={"position": exc.pos}) from None
    if not isinstance(value, dict):
        raise InvalidValue(
            "the body must be a JSON object",
            details={"fields": [{"field": "body", "expected": "a JSON object", "got": type(value).__name__}]},
        )
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        raise from_validation(exc) from None
