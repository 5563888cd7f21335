"""/api/operations: the receipts of asynchronous work, and the 202 that every route answers which begins some.

Not here: the work (each concern's own), nor how a receipt is kept (`pool.operations`).
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from gateway import examples, health, pages
from gateway.context import Ask, answer
from gateway.route import Concern, Query, Route
from quilt_fn.errors import Unavailable
from quilt_fn.model.operation import Accepted, OperationRecord
from quilt_fn.states import OperationStatus

WAIT_MAX_S = 300.0


def accepted(record: OperationRecord) -> web.Response:
    """The 202 of a route that began `record`."""
    return answer(Accepted(operation_id=record.operation_id, status_url=status_url(record.operation_id)), 202)


def status_url(operation_id: str) -> str:
    return f"/api/operations/{operation_id}"


async def list_(ask: Ask) -> web.StreamResponse:
    status = ask.request.query.get("status")
    return pages.page("operations", await ask.platform.operations.list(ask.tenant_id, status, *pages.asked(ask)))


async def get(ask: Ask) -> web.StreamResponse:
    """With `?wait_s=` when it has ended or the time is over. A node that shuts down ends the wait with a 503."""
    wait_s = ask.seconds("wait_s", 0.0, WAIT_MAX_S)
    operation_id = ask.path("operation_id")
    if not wait_s:
        return answer(await ask.platform.operations.get(ask.tenant_id, operation_id))
    background = ask.services.background
    found = background.start(ask.platform.operations.get(ask.tenant_id, operation_id, wait_s))
    closing = background.start(background.closing.wait())
    try:
        await asyncio.wait([found, closing], return_when=asyncio.FIRST_COMPLETED)
        if not found.done():
            raise Unavailable("this node is shutting down; ask again", retry_after=1)
        return answer(found.result())
    finally:
        found.cancel()
        closing.cancel()


async def cancel(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.operations.cancel(ask.tenant_id, ask.path("operation_id")))


ONE = "/api/operations/{operation_id}"
CONCERN = Concern(
    "operations",
    "Receipts of asynchronous work: every route that answers 202 gives the id of one.",
    routes=(
        Route(
            "GET", "/api/operations", list_, "`{operations, next_cursor}`, newest first",
            answers=pages.example("operations"),
            query=(
                Query("status", "only those in this status: " + ", ".join(OperationStatus)),
                *pages.QUERY,
            ),
        ),
        Route(
            "GET", ONE, get, "the operation", answers=OperationRecord,
            query=(Query("wait_s", f"answer at its end, or after so many seconds (≤ {WAIT_MAX_S:g})", "number"),),
        ),
        Route(
            "DELETE", ONE, cancel, "cancels; the operation, as a rule when what it had half made is undone",
            answers=OperationRecord,
        ),
    ),
    health=health.redis,
    examples=examples.OPERATIONS,
    rules=(
        "An operation is durable before its 202 is answered.",
        "What has ended can't be cancelled: 409 OPERATION_ENDED. What is not `cancellable`: 409 CONFLICT.",
        "When a node dies, what ran on it is `failed` with reason_code NODE_RESTARTED once it is back; after an "
        "orderly shutdown it is `cancelled` with NODE_STOPPED.",
        "A cancelled or timed-out operation has undone what it had half made before its status says so.",
        "The newest 1,000 of a tenant are kept, for seven days (QUILT_OPERATIONS_PER_TENANT, QUILT_OPERATIONS_DAYS).",
    ),
    states=("OPERATION",),
)  # fmt: skip
