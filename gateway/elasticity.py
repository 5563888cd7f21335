"""The routes that change how much something may use or how many there are of it, while it runs.

Not here: what is done about it (`pool.pools`, `pool.containers`).
"""

from __future__ import annotations

from typing import Any

from aiohttp import web
from pydantic import Field

from gateway import body, examples, health
from gateway.context import Ask, answer
from gateway.errors import invalid_field
from gateway.operations import accepted
from gateway.route import Concern, Query, Route
from pool.api import Report
from quilt_fn.errors import Forbidden, InvalidRequest
from quilt_fn.model.common import Model
from quilt_fn.model.container import ContainerRecord
from quilt_fn.model.function import PoolRecord
from quilt_fn.model.operation import Accepted

POOL_TARGET_TIMEOUT_S = 60.0


class PoolTarget(Model):
    """How many instances a function keeps at least and at most."""

    min_instances: int = Field(ge=0, le=1000)
    max_instances: int = Field(ge=1, le=1000)


class Resize(Model):
    memory_limit_mb: int | None = Field(None, ge=16, le=1_048_576)
    cpu_limit_percent: int | None = Field(None, ge=1, le=100_000)
    pids_limit: int | None = Field(None, ge=4, le=32_768)


async def resize(ask: Ask) -> web.StreamResponse:
    _check_tenant(ask)
    wanted = body.parse(Resize, await body.read(ask.request, ask.services.max_body_bytes))
    return answer(
        await ask.platform.containers.resize(
            ask.tenant_id, ask.path("container_id"), wanted.memory_limit_mb, wanted.cpu_limit_percent, wanted.pids_limit
        )
    )


async def pool_target(ask: Ask) -> web.StreamResponse:
    target = await _pool_target(ask)
    return answer(
        await ask.platform.set_pool_target(
            ask.tenant_id, ask.path("function_id"), target.min_instances, target.max_instances
        )
    )


async def control_pool_target(ask: Ask) -> web.StreamResponse:
    """As `pool_target`, with a receipt; the operation's result is the pool."""
    target, function_id = await _pool_target(ask), ask.path("function_id")
    await ask.platform.get(ask.tenant_id, function_id)  # what is not there is a 404, not an operation that fails

    async def work(_report: Report) -> dict[str, Any]:
        found = await ask.platform.set_pool_target(
            ask.tenant_id, function_id, target.min_instances, target.max_instances
        )
        return found.model_dump(mode="json")

    return accepted(
        await ask.platform.operations.begin(
            ask.tenant_id, "function.pool_target", ("function", function_id), work, timeout_s=POOL_TARGET_TIMEOUT_S
        )
    )


async def _pool_target(ask: Ask) -> PoolTarget:
    _check_tenant(ask)
    target = body.parse(PoolTarget, await body.read(ask.request, ask.services.max_body_bytes))
    if target.min_instances > target.max_instances:
        raise invalid_field("min_instances", f"at most max_instances ({target.max_instances})", target.min_instances)
    return target


def _check_tenant(ask: Ask) -> None:
    claimed = ask.request.headers.get("X-Tenant-Id")
    if claimed is None:
        raise InvalidRequest("the header X-Tenant-Id is missing", hint=f"yours is {ask.tenant_id}")
    if claimed != ask.tenant_id:
        raise Forbidden("X-Tenant-Id is not the tenant of this API key")


TENANT = (Query("X-Tenant-Id", "the tenant of the key", required=True),)
CONCERN = Concern(
    "elasticity",
    "Limits of containers and numbers of instances, changed while they run.",
    (
        Route(
            "POST", "/api/elasticity/containers/{container_id}/resize", resize, "record; other limits at once",
            body=Resize, answers=ContainerRecord, headers=TENANT,
        ),
        Route(
            "POST", "/api/elasticity/functions/{function_id}/pool-target", pool_target,
            "the pool; what is wanted of it from now on", body=PoolTarget, answers=PoolRecord, headers=TENANT,
        ),
        Route(
            "POST", "/api/elasticity/control/functions/{function_id}/pool-target", control_pool_target,
            "202; as above, as an operation; a repeated `Idempotency-Key` is 409 with its `operation_id`",
            body=PoolTarget, answers=Accepted, status=202, replay="conflict", headers=TENANT,
        ),
    ),
    health=health.all_of(health.redis, health.spawner),
    examples=examples.ELASTICITY,
    rules=(
        "X-Tenant-Id must be the key's own tenant: 400 without it, 403 with another.",
        "A field of a resize that is absent stays as it is.",
    ),
)  # fmt: skip
