"""The application: one table of routes, each with its handler, and what is done around every handler.

Not here: `/fn/`, the hot path, which `put_before_router` serves past all of this, and the sockets (`gateway.server`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway import (
    bundles,
    containers,
    events,
    functions,
    guides,
    images,
    invocations,
    keys,
    network,
    operations,
    system,
    terminals,
    volumes,
)
from gateway.auth import NOBODY, authenticate
from gateway.context import REQUEST_ID, Ask, Background, Ids, Services, sane_request_id
from gateway.errors import as_quilt_error, error_response
from gateway.idempotency import once
from gateway.ingress import INGRESS, INGRESS_PATH, Ingress
from gateway.invoke import PREFIX, Invoker
from gateway.limits import RateLimits
from gateway.responses import NoResponse, gone
from gateway.route import Concern, Route
from pool.api import Platform
from quilt_fn.model.function import FunctionCreate
from quilt_fn.model.operation import Accepted
from quilt_fn.settings import Settings

INVOKER = web.AppKey("invoker", Invoker)


CONCERNS: tuple[Concern, ...] = (
    containers.CONCERN,
    terminals.CONCERN,
    network.CONCERN,
    operations.CONCERN,
    events.CONCERN,
    volumes.CONCERN,
    images.CONCERN,
)
FUNCTION = "/api/functions/{function_id}"
ROUTES: tuple[Route, ...] = (
    Route("GET", "/health", system.health, '`{"status": "ok"}`', public=True),
    Route("GET", "/metrics", system.metrics, "Prometheus text; QUILT_PUBLIC_METRICS opens it to loopback", public=True),
    Route("GET", "/api/system/info", system.info, "version, node, uptime, features with a reason for each missing one"),
    Route("GET", "/api/keys", keys.list_, "`{keys, next_cursor}`, without the keys themselves"),
    Route(
        "POST", "/api/keys", keys.create, "201 `{key_id, name, key, created_at}`; `key` is shown only here", status=201,
        replay="secret",
    ),
    Route("DELETE", "/api/keys/{key_id}", keys.delete, "204"),
    Route(
        "POST", "/api/bundles", bundles.upload, "201 `{bundle_id, size_bytes}` for a raw tar.gz; known content 200",
        body="application/gzip", status=201,
    ),
    Route("POST", "/api/functions", functions.create, "201 record", body=FunctionCreate, status=201),
    Route("GET", "/api/functions", functions.list_, "`{functions, next_cursor}`; `?limit=&cursor=`"),
    Route("GET", "/api/functions/by-name/{name}", functions.by_name, "record"),
    Route("GET", "/api/functions/pool/stats", functions.pool_stats, "`{pools: […]}`, one for each function"),
    Route("POST", "/api/functions/invoke/{name}", invocations.invoke_by_name, "invocation record, also of a failure"),
    Route("GET", FUNCTION, functions.get, "record"),
    Route("PUT", FUNCTION, functions.update, "record; makes a new version"),
    Route("DELETE", FUNCTION, functions.delete, "204; running invocations get their time limit"),
    Route(
        "POST", FUNCTION + "/deploy", functions.deploy,
        "record when capacity is ready; with `Accept: application/x-ndjson` progress lines, then `done` or `error`",
    ),
    Route("POST", FUNCTION + "/pause", functions.pause, "record; drains, scales to zero, keeps the snapshot"),
    Route("POST", FUNCTION + "/resume", functions.resume, "record when capacity is ready"),
    Route("POST", FUNCTION + "/invoke", invocations.invoke, "invocation record, also of a failure"),
    Route("GET", FUNCTION + "/invocations", invocations.list_, "`{invocations, next_cursor}`; `?status=&limit=`"),
    Route("GET", FUNCTION + "/invocations/{invocation_id}", invocations.get, "invocation record"),
    Route(
        "GET", FUNCTION + "/logs", invocations.logs,
        "NDJSON lines `{t, stream, invocation_id, instance_id, text}`; `?follow=true&invocation_id=&limit=&token=`",
        token=True,
    ),
    Route("GET", FUNCTION + "/pool", functions.pool, "the function's pool"),
    Route(
        "POST", FUNCTION + "/template/drop", functions.drop_template,
        "`{dropped}`; the next start is a restore, with `?snapshot=true` a boot",
    ),
    Route(
        "POST", "/api/elasticity/functions/{function_id}/pool-target", functions.pool_target,
        "the pool; body `{min_instances, max_instances}`, header `X-Tenant-Id` needed",
    ),
    Route(
        "POST", "/api/elasticity/control/functions/{function_id}/pool-target", functions.control_pool_target,
        "202; as above, as an operation; a repeated `Idempotency-Key` is 409 with its `operation_id`",
        body=functions.PoolTarget, answers=Accepted, status=202, replay="conflict",
    ),
    *(route for concern in CONCERNS for route in concern.routes),
    *(route for concern in CONCERNS for route in guides.routes(concern)),
)  # fmt: skip


def build(platform: Platform, settings: Settings) -> web.Application:
    """The application over `platform`. It owns no socket and neither starts nor closes the platform."""
    services = Services(platform, settings, Background(), Ids(), RateLimits.of(settings))
    app = web.Application(
        middlewares=[_around(services)], client_max_size=services.max_body_bytes, handler_args={"access_log": None}
    )
    app[INVOKER] = Invoker(services)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _asked(services, route))
    app[INGRESS] = Ingress(services)
    app.router.add_route("*", INGRESS_PATH, app[INGRESS].serve)
    app.on_shutdown.append(_closing(services))
    app.on_cleanup.append(_closed(services))
    return app


def put_before_router(server: web.Server, invoker: Invoker) -> None:
    """Serve what lies below /fn/ without router and middleware, also in the absolute form that proxies send."""
    routed, serve = server.request_handler, invoker.serve

    def dispatch(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        raw_path = request.raw_path
        if raw_path.startswith(PREFIX) or (raw_path[:1] != "/" and request.rel_url.raw_path.startswith(PREFIX)):
            return serve(request)
        return routed(request)

    server.request_handler = dispatch


def _asked(services: Services, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        caller = NOBODY
        if not route.public:
            caller = await authenticate(services.platform, request, in_query=route.token)
            if services.limits is not None:
                services.limits.take(caller.key_id)
        ask = Ask(request, services, caller, request[REQUEST_ID])
        return await (once(ask, route) if route.replays else route.handler(ask))

    return handle


def _around(services: Services) -> Callable[..., Awaitable[web.StreamResponse]]:
    """X-Request-Id on every response, and every failure in the one shape, the router's own 404 and 405 included."""

    @web.middleware
    async def around(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        given = sane_request_id(request.headers.get("X-Request-Id"))
        request_id = request[REQUEST_ID] = given or "req_" + services.ids.next()
        try:
            response = await handler(request)
        except Exception as exc:
            if isinstance(exc, ConnectionError) and gone(request):
                return NoResponse()
            return error_response(as_quilt_error(exc, request, request_id), request_id)
        if not response.prepared:
            response.headers["X-Request-Id"] = request_id
        return response

    return around


def _closing(services: Services) -> Callable[[web.Application], Awaitable[None]]:
    async def closing(_app: web.Application) -> None:
        services.background.closing.set()

    return closing


def _closed(services: Services) -> Callable[[web.Application], Awaitable[None]]:
    async def closed(app: web.Application) -> None:
        await services.background.close()
        await app[INGRESS].close()

    return closed
