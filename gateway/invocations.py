"""The routes of invocations: invoke with a record as the answer, the records, the logs.

Not here: `/fn/<name>`, which answers with what the function answered (`gateway.invoke`).
"""

from __future__ import annotations

import base64
import time
from typing import Any

import orjson
from aiohttp import web

from gateway import body, pages
from gateway.context import Ask, answer
from gateway.errors import invalid_field
from gateway.lines import send_lines
from gateway.responses import close, failure_as_error
from pool.api import Served, Target
from quilt_fn.errors import FunctionNotFound, InvocationTimeout, QuiltError
from quilt_fn.model.invocation import InvocationError, InvocationRecord, InvokeRequest, Timings
from quilt_fn.states import InvocationStatus, StartKind
from runtime.api import Call, Failure, Outcome

RESULT_LIMIT_BYTES = 32 << 20
"""A stream is read up to this for a record's `result`; more is ended and said so."""


async def invoke(ask: Ask) -> web.StreamResponse:
    target = ask.platform.resolve_id(ask.tenant_id, ask.path("function_id"))
    return await _invoke(ask, target, ask.path("function_id"))


async def invoke_by_name(ask: Ask) -> web.StreamResponse:
    target = ask.platform.resolve(ask.tenant_id, ask.path("name"))
    return await _invoke(ask, target, ask.path("name"))


async def _invoke(ask: Ask, target: Target | None, asked_for: str) -> web.StreamResponse:
    if target is None:
        raise FunctionNotFound(f"there is no function {asked_for!r}", hint="GET /api/functions lists them")
    wanted = body.parse(InvokeRequest, await body.read(ask.request, ask.services.max_body_bytes))
    timeout_s = min(wanted.timeout_seconds or target.timeout_seconds, target.timeout_seconds)
    started_at = time.time()
    call = Call(
        invocation_id="inv_" + ask.services.ids.next(),
        kind="json",
        body=orjson.dumps(wanted.payload),
        deadline=started_at + timeout_s,
        environment=wanted.environment or None,
    )
    if isinstance(wanted.payload, str):
        call.kind, call.body = text_event(wanted.payload)
    try:
        served = await ask.platform.invoke(target, call)
    except InvocationTimeout as exc:
        return answer(never_started(target, call, started_at, exc))
    if served.outcome.stream is not None:
        await _gather(served.outcome)
    return answer(record_of(target, served, started_at, call.attempt, await ask.services.node_id()))


def text_event(payload: str) -> tuple[Any, bytes]:
    """A text payload that is JSON is parsed by the guest, other text is handed over as text."""
    raw = payload.encode()
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        return "text", raw
    return "json", raw


async def _gather(outcome: Outcome) -> None:
    """Read a stream to its end into the body; a failure in its middle becomes the outcome's."""
    stream, outcome.stream = outcome.stream, None
    assert stream is not None
    parts: list[bytes] = []
    size = 0
    try:
        async for chunk in stream:
            parts.append(chunk)
            size += len(chunk)
            if size > RESULT_LIMIT_BYTES:
                outcome.failure = Failure(
                    "RESULT_TOO_LARGE", "ResultTooLarge", f"the stream passed {RESULT_LIMIT_BYTES} bytes; use /fn/"
                )
                break
    except QuiltError as exc:
        if outcome.failure is None:
            outcome.failure = Failure(exc.error_code, type(exc).__name__, exc.message)
    finally:
        await close(stream)
    outcome.body = b"".join(parts)


def record_of(
    target: Target, served: Served, started_at: float, attempt: int = 1, node_id: str | None = None
) -> InvocationRecord:
    """The record of an invocation that this process has just served, without waiting for the pool's own."""
    outcome, failure = served.outcome, served.outcome.failure
    ended_at = time.time()
    record = InvocationRecord(
        invocation_id=served.invocation_id,
        function_id=target.function_id,
        function_name=target.function_name,
        version=target.version,
        execution_node_id=node_id,
        instance_id=served.instance_id,
        status=InvocationStatus.SUCCESS,
        started_at=started_at,
        ended_at=ended_at,
        duration_ms=round((ended_at - started_at) * 1000, 3),
        exit_code=outcome.exit_code,
        stdout=outcome.stdout.decode(errors="replace"),
        stderr=outcome.stderr.decode(errors="replace"),
        truncated=outcome.truncated,
        cold_start=served.start is not StartKind.WARM,
        start=served.start,
        timings=Timings(queue_ms=served.queue_ms, start_ms=served.start_ms, run_ms=served.run_ms),
        attempt=attempt,
    )
    if failure is None:
        record.result = result_of(outcome)
        return record
    error = failure_as_error(failure, traceback=True, limit="timeout_seconds")
    timed_out = outcome.timed_out or isinstance(error, InvocationTimeout)
    record.status = InvocationStatus.TIMEOUT if timed_out else InvocationStatus.FAILED
    record.error_code = failure.code
    record.error_message = error.message
    record.error = InvocationError(type=failure.type, message=failure.message, traceback=failure.traceback)
    return record


def never_started(target: Target, call: Call, started_at: float, error: QuiltError) -> InvocationRecord:
    """The record of an invocation whose time was over before an instance was free."""
    ended_at = time.time()
    waited_ms = round((ended_at - started_at) * 1000, 3)
    return InvocationRecord(
        invocation_id=call.invocation_id,
        function_id=target.function_id,
        function_name=target.function_name,
        version=target.version,
        status=InvocationStatus.TIMEOUT,
        started_at=started_at,
        ended_at=ended_at,
        duration_ms=waited_ms,
        error_code=error.error_code,
        error_message=error.message,
        error=InvocationError(type=type(error).__name__, message=error.message),
        timings=Timings(queue_ms=waited_ms),
    )


def result_of(outcome: Outcome) -> Any:
    """The handler's value for a record: JSON as it is, text as text, octets as text where UTF-8, else base64."""
    if outcome.kind == "json":
        try:
            return orjson.loads(outcome.body)
        except orjson.JSONDecodeError:
            pass  # NaN and Infinity, which Python writes and JSON does not know: as text
    try:
        return outcome.body.decode()
    except UnicodeDecodeError:
        return {"isBase64Encoded": True, "body": base64.b64encode(outcome.body).decode()}


async def list_(ask: Ask) -> web.StreamResponse:
    status = ask.request.query.get("status")
    if status is not None and status not in list(InvocationStatus):
        raise invalid_field("status", "one of " + ", ".join(InvocationStatus), status)
    found = await ask.platform.invocations(ask.tenant_id, ask.path("function_id"), status, *pages.asked(ask))
    return pages.page("invocations", found)


async def get(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.invocation(ask.tenant_id, ask.path("function_id"), ask.path("invocation_id")))


async def logs(ask: Ask) -> web.StreamResponse:
    """NDJSON, oldest first; with `follow` until the client leaves or the node goes."""
    follow = ask.flag("follow")
    lines = ask.platform.logs(
        ask.tenant_id,
        ask.path("function_id"),
        follow=follow,
        invocation_id=ask.request.query.get("invocation_id"),
        limit=ask.number("limit", pages.LIST_MAX, 100_000),
    )
    return await send_lines(ask, lines, follow=follow)
