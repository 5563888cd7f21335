"""The routes of functions: create, read, update, delete, deploy, pause, resume, pool.

Not here: invoking them (`gateway.invoke`, `gateway.invocations`).
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from gateway import body, pages
from gateway.context import Ask, answer, dump
from gateway.errors import as_quilt_error, error_body
from quilt_fn.errors import Unavailable
from quilt_fn.model.function import FunctionCreate, FunctionRecord, FunctionUpdate
from runtime.api import Progress

NDJSON = "application/x-ndjson"


async def create(ask: Ask) -> web.StreamResponse:
    spec = body.parse(FunctionCreate, await body.read(ask.request, ask.services.max_body_bytes))
    return answer(await ask.platform.create(ask.tenant_id, spec), 201)


async def list_(ask: Ask) -> web.StreamResponse:
    return pages.page("functions", await ask.platform.list(ask.tenant_id, *pages.asked(ask)))


async def get(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.get(ask.tenant_id, ask.path("function_id")))


async def by_name(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.by_name(ask.tenant_id, ask.path("name")))


async def update(ask: Ask) -> web.StreamResponse:
    raw = await body.read(ask.request, ask.services.max_body_bytes)
    changes = body.parse(FunctionUpdate, raw)
    return answer(await ask.platform.update(ask.tenant_id, ask.path("function_id"), changes))


async def delete(ask: Ask) -> web.StreamResponse:
    await ask.platform.delete(ask.tenant_id, ask.path("function_id"))
    return web.Response(status=204)


async def pause(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.pause(ask.tenant_id, ask.path("function_id")))


async def resume(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.resume(ask.tenant_id, ask.path("function_id")))


async def drop_template(ask: Ask) -> web.StreamResponse:
    dropped = await ask.platform.drop_template(ask.tenant_id, ask.path("function_id"), snapshot=ask.flag("snapshot"))
    return answer({"dropped": dropped})


async def pool(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.pool(ask.tenant_id, ask.path("function_id")))


async def pool_stats(ask: Ask) -> web.StreamResponse:
    return answer({"pools": await ask.platform.pool_stats(ask.tenant_id)})


async def deploy(ask: Ask) -> web.StreamResponse:
    """The record when capacity is ready; with `Accept: application/x-ndjson` progress line by line, then it.

    A client that leaves does not stop the deploy.
    """
    function_id = ask.path("function_id")
    if NDJSON in ask.request.headers.get("Accept", ""):
        await ask.platform.get(ask.tenant_id, function_id)  # what is not there is a 404, not a line of a 200
        return await _deploy_in_lines(ask, function_id)
    return answer(await ask.platform.deploy(ask.tenant_id, function_id))


async def _deploy_in_lines(ask: Ask, function_id: str) -> web.StreamResponse:
    lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    def on_progress(step: Progress) -> None:
        fields = {"stage": step.stage, "text": step.text, "done": step.done, "ms": step.ms}
        lines.put_nowait({"event": "progress"} | fields)

    work = ask.services.background.start(ask.platform.deploy(ask.tenant_id, function_id, on_progress))
    work.add_done_callback(lambda _done: lines.put_nowait(None))
    response = web.StreamResponse(headers={"Content-Type": NDJSON, "X-Request-Id": ask.request_id})
    await response.prepare(ask.request)
    while (line := await lines.get()) is not None:
        await response.write(dump(line) + b"\n")
    await response.write(dump(_last_line(ask, work)) + b"\n")
    await response.write_eof()
    return response


def _last_line(ask: Ask, work: asyncio.Task[FunctionRecord]) -> dict[str, Any]:
    if work.cancelled():
        error: Exception = Unavailable("the node is shutting down; deploy again")
    elif (raised := work.exception()) is None:
        return {"event": "done", "function": work.result()}
    else:
        error = raised if isinstance(raised, Exception) else RuntimeError(repr(raised))
    return {"event": "error"} | error_body(as_quilt_error(error, ask.request, ask.request_id), ask.request_id)
