"""The routes of containers' networks and of the services that they publish.

Not here: the requests to those services (`gateway.ingress`).
"""

from __future__ import annotations

from aiohttp import web

from gateway import body, examples, health, pages
from gateway.context import Ask, answer
from gateway.route import Concern, Route
from quilt_fn.model.network import (
    Diagnostics,
    NetworkRecord,
    NetworkUpdate,
    ServiceCreate,
    ServiceRecord,
)


async def get(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.network.get(ask.tenant_id, ask.path("container_id")))


async def update(ask: Ask) -> web.StreamResponse:
    wanted = body.parse(NetworkUpdate, await body.read(ask.request, ask.services.max_body_bytes))
    return answer(await ask.platform.network.update(ask.tenant_id, ask.path("container_id"), wanted))


async def diagnostics(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.network.diagnostics(ask.tenant_id, ask.path("container_id")))


async def allocations(ask: Ask) -> web.StreamResponse:
    return pages.page("allocations", await ask.platform.network.allocations(ask.tenant_id, *pages.asked(ask)))


async def entries(ask: Ask) -> web.StreamResponse:
    return pages.page("entries", ask.platform.network.names(ask.tenant_id, *pages.asked(ask)))


async def publish(ask: Ask) -> web.StreamResponse:
    wanted = body.parse(ServiceCreate, await body.read(ask.request, ask.services.max_body_bytes))
    return answer(await ask.platform.services.create(ask.tenant_id, ask.path("container_id"), wanted), 201)


async def services(ask: Ask) -> web.StreamResponse:
    found = ask.platform.services.list(ask.tenant_id, ask.path("container_id"), *pages.asked(ask))
    return pages.page("services", found)


async def withdraw(ask: Ask) -> web.StreamResponse:
    await ask.platform.services.delete(ask.tenant_id, ask.path("container_id"), ask.path("service_id"))
    return web.Response(status=204)


CONTAINER = "/api/containers/{container_id}"
CONCERN = Concern(
    "network",
    "Addresses and names of containers, what they reach, and services that they publish.",
    (
        Route("GET", CONTAINER + "/network", get, "address, gateway, names, egress", answers=NetworkRecord),
        Route("PUT", CONTAINER + "/network", update, "the same; `egress` is in force when this answers",
              body=NetworkUpdate, answers=NetworkRecord),
        Route("GET", CONTAINER + "/network/diagnostics", diagnostics, "`{healthy, checks}`, each check made now",
              answers=Diagnostics),
        Route("POST", CONTAINER + "/services", publish, "201 record with the `token`, which is shown only here",
              body=ServiceCreate, answers=ServiceRecord, status=201, replay="secret"),
        Route("GET", CONTAINER + "/services", services, "`{services, next_cursor}`, newest first",
              answers=pages.example("services"), query=pages.QUERY),
        Route("DELETE", CONTAINER + "/services/{service_id}", withdraw, "204", status=204),
        Route("GET", "/api/network/allocations", allocations,
              "`{allocations, next_cursor}`: your addresses, the newest container's first",
              answers=pages.example("allocations"), query=pages.QUERY),
        Route("GET", "/api/dns/entries", entries,
              "`{entries, next_cursor}`: the names that your containers find, the newest container's first",
              answers=pages.example("entries"), query=pages.QUERY),
    ),
    health=health.all_of(health.spawner, health.bridge),
    examples=examples.NETWORK,
    rules=(
        "A container keeps its address from its first start to its delete.",
        "Containers of one tenant reach each other by NAME and NAME.quilt.internal, on every port; those of other "
        "tenants they do not reach, nor this machine, nor 169.254.0.0/16.",
        "With egress off a container reaches only its tenant's containers, and only their names are answered.",
        "A published service is at /linx/<service_id>/: 401 without its token, 503 while nothing listens.",
        "The token is taken as X-Quilt-Token, as a bearer token, as ?token= (which also sets a cookie), or as that "
        "cookie; it is not passed on to the container.",
    ),
)  # fmt: skip
