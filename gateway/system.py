"""What the node says of itself: alive, its features, its metrics.

Not here: what the figures are made of (`Platform.system` and `Platform.metrics`).
"""

from __future__ import annotations

from aiohttp import web

from gateway.context import Ask, answer
from gateway.route import Route

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def health(_ask: Ask) -> web.StreamResponse:
    """Says that this process answers; what works is in /api/system/info."""
    return answer({"status": "ok"})


async def info(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.system())


async def metrics(ask: Ask) -> web.StreamResponse:
    return web.Response(body=ask.platform.metrics(), headers={"Content-Type": METRICS_TYPE})


ROUTES = (
    Route("GET", "/health", health, "that this process answers", public=True, answers={"status": "ok"}),
    Route("GET", "/metrics", metrics, "Prometheus text", loopback=True, answers="text/plain"),
    Route(
        "GET", "/api/system/info", info, "version, node, uptime, features with a reason for each missing one",
        answers={
            "version": "0.1.0", "node_id": "node_1", "started_at": "2026-01-01T00:00:00Z", "uptime_s": 1.5,
            "features": {}, "redis": {},
        },
    ),
)  # fmt: skip
