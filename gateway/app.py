"""The application: one table of routes, each with its handler, and what is done around every handler.

Not here: `/fn/`, the hot path, which `put_before_router` serves past all of this, and the sockets (`gateway.server`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway import (
    containers,
    elasticity,
    events,
    function_routes,
    guides,
    images,
    keys,
    network,
    openapi,
    operations,
    system,
    terminals,
    volumes,
)
from gateway.auth import NOBODY, authenticate, from_loopback
from gateway.context import REQUEST_ID, Ask, Background, Ids, Services, sane_request_id
from gateway.errors import as_quilt_error, error_response
from gateway.idempotency import once
from gateway.ingress import INGRESS, INGRESS_PATH, Ingress
from gateway.invoke import PREFIX, Invoker
from gateway.limits import RateLimits
from gateway.responses import NoResponse, gone
from gateway.route import Concern, Route
from pool.api import Platform
from quilt_fn.settings import Settings

INVOKER = web.AppKey("invoker", Invoker)


CONCERNS: tuple[Concern, ...] = (
    function_routes.CONCERN,
    containers.CONCERN,
    terminals.CONCERN,
    network.CONCERN,
    operations.CONCERN,
    events.CONCERN,
    volumes.CONCERN,
    images.CONCERN,
    elasticity.CONCERN,
)
ROUTES: tuple[Route, ...] = (
    *system.ROUTES,
    *keys.ROUTES,
    *(route for concern in CONCERNS for route in concern.routes),
    *(route for concern in CONCERNS for route in guides.routes(concern)),
    *openapi.routes(lambda: (ROUTES, CONCERNS)),
)


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
        settings = services.settings
        opened = route.loopback and settings.public_metrics and from_loopback(request)
        if not (route.public or opened):
            caller = await authenticate(services.platform, request, in_query=route.token)
            if services.limits is not None:
                services.limits.take(caller.key_id)
        if route.fills:
            services.platform.disk.check()
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
