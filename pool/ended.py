"""An invocation that is over: as the hot path leaves it, and as the record that Redis keeps.

Not here: when it is packed and sent (`pool.records`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from quilt_fn.states import InvocationStatus, StartKind
from runtime.api import Failure

INLINE_BYTES = 4096
"""Of each text that a record holds; more of the output lies in the log files."""


@dataclass(slots=True)
class Ended:
    """An invocation that is over, as the hot path leaves it."""

    function_id: str
    function_name: str
    version: int
    invocation_id: str
    instance_id: str | None
    status: InvocationStatus
    started_at: float
    ended_at: float
    start: StartKind | None
    queue_ms: float
    start_ms: float
    run_ms: float
    attempt: int
    failure: Failure | None
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    truncated: bool
    result: bytes | None
    """A JSON or text result of at most 4 KiB."""
    result_kind: str


@dataclass(slots=True)
class Packed:
    function_id: str
    invocation_id: str
    ended_at: float
    is_error: bool
    body: bytes


def pack(ended: Ended, node_id: str) -> Packed:
    """The record as Redis keeps it: JSON of quilt_fn.model.invocation.InvocationRecord."""
    failure = ended.failure
    record: dict[str, Any] = {
        "invocation_id": ended.invocation_id,
        "function_id": ended.function_id,
        "function_name": ended.function_name,
        "version": ended.version,
        "execution_node_id": node_id,
        "instance_id": ended.instance_id,
        "status": ended.status,
        "started_at": ended.started_at,
        "ended_at": ended.ended_at,
        "duration_ms": round((ended.ended_at - ended.started_at) * 1000, 3),
        "exit_code": ended.exit_code,
        "stdout": _head(ended.stdout),
        "stderr": _head(ended.stderr),
        "truncated": ended.truncated,
        "cold_start": ended.start is not None and ended.start is not StartKind.WARM,
        "start": ended.start,
        "timings": {
            "queue_ms": round(ended.queue_ms, 3),
            "start_ms": round(ended.start_ms, 3),
            "run_ms": round(ended.run_ms, 3),
        },
        "attempt": ended.attempt,
    }
    if failure is not None:
        record["error_message"] = failure.message[:INLINE_BYTES]
        record["error_code"] = failure.code
        record["error"] = {
            "type": failure.type[:256],
            "message": failure.message[:INLINE_BYTES],
            "traceback": failure.traceback[-2 * INLINE_BYTES :] if failure.traceback else None,
        }
    elif ended.result is not None:
        record["result"] = _result(ended.result, ended.result_kind)
    if len(ended.stdout) > INLINE_BYTES or len(ended.stderr) > INLINE_BYTES:
        record["output_in_logs"] = True
    is_error = ended.status is not InvocationStatus.SUCCESS
    body = orjson.dumps(record)
    return Packed(ended.function_id, ended.invocation_id, ended.ended_at, is_error, body)


def _head(content: bytes) -> str:
    return content[:INLINE_BYTES].decode("utf-8", "replace") if content else ""


def _result(body: bytes, kind: str) -> Any:
    if kind == "text":
        return body.decode("utf-8", "replace")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:  # what an instance calls JSON need not be
        return None
