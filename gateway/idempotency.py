"""Idempotency-Key: what is sent twice happens once, and is answered twice with what the first one was told.

Put around the handlers of every route that creates something or answers 202 (`Route.replay`). Not here: where answers
are kept (`pool.replays`).
"""

from __future__ import annotations

import hashlib

import orjson
from aiohttp import web

from gateway import body
from gateway.context import Ask
from gateway.route import Route
from pool.api import Answer
from quilt_fn.errors import Conflict, InvalidRequest, InvalidValue

HEADER = "Idempotency-Key"
RAW_LIMIT_BYTES = 1 << 40
"""A raw body that comes again is read through for its digest alone, so that its size needs no bound of its own."""


async def once(ask: Ask, route: Route) -> web.StreamResponse:
    """What the handler answers, or answered the first time. Only successes are kept: after a failure the same key may
    be tried again.

    Raises InvalidValue where the same key comes with another body, and Conflict where the answer may not be repeated.
    """
    key = ask.request.headers.get(HEADER)
    if key is None:
        return await route.handler(ask)
    if not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
        raise InvalidRequest(f"{HEADER} must be 1 to 255 printable ASCII characters")
    replays, scope = ask.platform.replays, f"{route.method} {ask.request.path}"
    digest = hashlib.sha256(ask.request.query_string.encode() + b"\0")
    streamed = isinstance(route.body, str)
    if streamed:
        ask.request[body.DIGEST] = digest
    else:
        raw = ask.request[body.READ] = await body.read(ask.request, ask.services.max_body_bytes)
        digest.update(raw)
    kept = await replays.begin(ask.tenant_id, scope, key)
    if kept is not None:
        if streamed:
            async for _ in body.pieces(ask.request, RAW_LIMIT_BYTES):
                pass
        return _again(kept, digest.hexdigest(), route)
    try:
        response = await route.handler(ask)
    except BaseException:
        await replays.give_up(ask.tenant_id, scope, key)
        raise
    if isinstance(response, web.Response) and response.status < 300 and isinstance(response.body, bytes):
        answer = Answer(
            response.status, response.body, response.content_type, digest.hexdigest(), secret=route.replay == "secret"
        )
        await replays.keep(ask.tenant_id, scope, key, answer)
    else:
        await replays.give_up(ask.tenant_id, scope, key)
    return response


def _again(kept: Answer, fingerprint: str, route: Route) -> web.Response:
    if kept.fingerprint != fingerprint:
        raise InvalidValue(f"this {HEADER} was used before with another body", hint="use a new key for a new request")
    if route.replay == "conflict":
        operation_id = orjson.loads(kept.body).get("operation_id")
        raise Conflict("this was asked for before with the same key", details={"operation_id": operation_id})
    if kept.secret and not kept.body:
        raise Conflict(
            "this was done before, and its answer, which holds a secret, is not kept on disk",
            hint="delete what it made and make another with a new key",
        )
    headers = {"Idempotency-Replayed": "true"}
    return web.Response(body=kept.body, status=kept.status, content_type=kept.content_type, headers=headers)
