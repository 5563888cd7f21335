"""Invocations as the API takes and gives them.

Not here: how one is dispatched (`pool.dispatcher`) or kept (`pool.records`).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from quilt_fn.model.common import Model, Record
from quilt_fn.model.function import Environment


class InvokeRequest(Model):
    """Body of the invoke routes. A text `payload` that is JSON is parsed, other text is handed over as text."""

    payload: Any = None
    environment: Environment = {}
    timeout_seconds: float | None = Field(None, gt=0)


class Timings(Record):
    queue_ms: float = 0.0
    start_ms: float = 0.0
    run_ms: float = 0.0


class InvocationError(Record):
    type: str
    message: str
    traceback: str | None = None


class InvocationRecord(Record):
    """One call of a function. Times are epoch seconds, durations milliseconds."""

    invocation_id: str
    function_id: str
    function_name: str
    version: int
    execution_node_id: str | None = None
    instance_id: str | None = None
    status: str
    started_at: float
    ended_at: float | None = None
    duration_ms: float | None = None
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    error_message: str | None = None
    error_code: str | None = None
    error: InvocationError | None = None
    result: Any = None
    cold_start: bool = False
    start: str | None = None
    timings: Timings = Timings()
    attempt: int = 1
