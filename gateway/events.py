"""GET /api/events: what happens on this platform, as server-sent events.

Not here: which events there are and how long they are kept (`pool.events`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from gateway import examples, health
from gateway.context import Ask, dump
from gateway.errors import invalid_field
from gateway.responses import GONE_POLL_S, gone
from gateway.route import Concern, Query, Route
from pool.api import Event, Listener
from pool.clock import iso

HEARTBEAT_S = 15.0
WRITE_S = 30.0
"""A client that takes nothing for so long is given up."""
FILTERS = ("operation_id", "container_id", "function_id")
LAST = "Last-Event-ID"


async def stream(ask: Ask) -> web.StreamResponse:
    """`ready`, then events as they come, until the client leaves, falls too far behind, or the node goes."""
    query = ask.request.query
    after = _after(ask.request.headers.get(LAST, query.get("last_event_id")))
    filters = {name: query[name] for name in FILTERS if name in query}
    listener = ask.platform.events.listen(ask.tenant_id, filters, after)
    try:
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no", "X-Request-Id": ask.request_id,
            }
        )  # fmt: skip
        await response.prepare(ask.request)
        ready = {"tenant_id": ask.tenant_id, "filters": filters, "resumed": after is not None}
        await _write(response, _frame(listener.last_number if after is None else None, "ready", ready))
        await _follow(ask, listener, response)
    finally:
        listener.close()
    return response


async def _follow(ask: Ask, listener: Listener, response: web.StreamResponse) -> None:
    loop = asyncio.get_running_loop()
    beat_at = loop.time() + HEARTBEAT_S
    closing = ask.services.background.closing
    while not (gone(ask.request) or closing.is_set()):
        event: Event | None = await listener.next(min(GONE_POLL_S, max(0.0, beat_at - loop.time())))
        if event is not None:
            await _write(response, _frame(event.number, event.kind, {"at": iso(event.at), **event.data}))
        elif listener.over:
            break
        if loop.time() >= beat_at:
            beat_at = loop.time() + HEARTBEAT_S
            await _write(response, _frame(None, "heartbeat", {}))
    await response.write_eof()


async def _write(response: web.StreamResponse, frame: bytes) -> None:
    try:
        async with asyncio.timeout(WRITE_S):
            await response.write(frame)
    except TimeoutError:
        raise ConnectionResetError("the client takes nothing") from None


def _frame(number: int | None, kind: str, data: Mapping[str, Any]) -> bytes:
    head = b"" if number is None else b"id: %d\n" % number
    return head + b"event: " + kind.encode() + b"\ndata: " + dump(dict(data)) + b"\n\n"


def _after(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise invalid_field(LAST, "the `id:` of an event", text)
    return int(text)


CONCERN = Concern(
    "events",
    "What happens to the tenant's operations, containers and functions, as it happens.",
    routes=(
        Route(
            "GET", "/api/events", stream, "server-sent events; `Last-Event-ID` resumes", token=True,
            answers="text/event-stream",
            headers=(Query("Last-Event-ID", "the `id:` of the last event that you have", "integer"),),
            query=(
                *(Query(name, "only events of this one") for name in FILTERS),
                Query("last_event_id", "as the header Last-Event-ID, for clients that can't set it", "integer"),
            ),
        ),
    ),
    health=health.streams,
    examples=examples.EVENTS,
    rules=(
        "`ready` comes first, `heartbeat` each 15 s; `data` is one line of JSON, with `at` and the ids to filter by.",
        "Kinds: OperationUpdate (the operation), container_update, volume_update, function_update, pool_update (at "
        "most one a second for each function) and invocation. The last two are only made while somebody listens.",
        "Several filters hold all at once.",
        "The last 1,000 events of a tenant are kept in memory. Where an event after Last-Event-ID is not kept any "
        "more, or the node was restarted since, `gap` comes first: read again what you keep up to date.",
        "Who falls 1,000 events behind gets `dropped` as the last event and may resume; a tenant may hold 100 streams.",
        "Numbers only grow, over restarts too. They have holes.",
    ),
)  # fmt: skip
