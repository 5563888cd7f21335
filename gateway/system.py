"""What the node says of itself: alive, its features, its metrics.

Not here: what the figures are made of (`Platform.system` and `Platform.metrics`).
"""

from __future__ import annotations

import ipaddress

from aiohttp import web

from gateway.auth import authenticate
from gateway.context import Ask, answer

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def health(_ask: Ask) -> web.StreamResponse:
    """Says that this process answers; what works is in /api/system/info."""
    return answer({"status": "ok"})


async def info(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.system())


async def metrics(ask: Ask) -> web.StreamResponse:
    """Needs a key, unless QUILT_PUBLIC_METRICS opens it to loopback."""
    if not (ask.services.settings.public_metrics and _from_loopback(ask.request)):
        await authenticate(ask.platform, ask.request)
    return web.Response(body=ask.platform.metrics(), headers={"Content-Type": METRICS_TYPE})


def _from_loopback(request: web.Request) -> bool:
    try:
        return ipaddress.ip_address(request.remote or "").is_loopback
    except ValueError:
        return False
