"""Answers of lines: one JSON object each, sent as they come, until they end, the client leaves or the node goes.

Not here: where the lines come from.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from gateway.context import Ask, dump
from gateway.functions import NDJSON
from gateway.responses import GONE_POLL_S, close, gone


async def send_lines(ask: Ask, lines: AsyncIterator[dict[str, Any]], *, follow: bool) -> web.StreamResponse:
    """What fails before the first line is an error with its status. `follow`: lines may be long in coming."""
    response = web.StreamResponse(headers={"Content-Type": NDJSON, "X-Request-Id": ask.request_id})
    step = asyncio.ensure_future(_next(lines))
    try:
        await asyncio.wait((step,), timeout=0.05 if follow else None)
        if step.done() and step.exception() is not None:
            step.result()  # not found, no Redis: an error with its status, before any line was promised
        await response.prepare(ask.request)
        while True:
            while not step.done():
                if gone(ask.request) or ask.services.background.closing.is_set():
                    break
                await asyncio.wait((step,), timeout=GONE_POLL_S)
            if not step.done() or (line := step.result()) is None:
                break
            await response.write(dump(line) + b"\n")
            step = asyncio.ensure_future(_next(lines))
        await response.write_eof()
    finally:
        if not step.done():
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)
        await close(lines)
    return response


async def _next(lines: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
    return await anext(lines, None)
