"""Operations as the API gives them: the receipt of asynchronous work.

Not here: who runs them (`pool.operations`).
"""

from __future__ import annotations

from typing import Any

from quilt_fn.model.common import Record
from quilt_fn.states import OperationStatus


class OperationRecord(Record):
    """Times are ISO 8601 UTC.

    `reason_code` is an error_code, or why it ended early: CANCELLED (somebody asked), TIMED_OUT, NODE_STOPPED (the node
    was shut down in an orderly way) or NODE_RESTARTED (the node died; what it had half made is removed at its start).
    """

    operation_id: str
    operation_type: str
    """`container.start`, `image.build`, `volume.delete` …: the concern, then the verb."""
    status: OperationStatus
    target_resource_type: str
    target_resource_id: str
    progress_pct: float = 0.0
    message: str = ""
    result: dict[str, Any] | None = None
    error: str | None = None
    reason_code: str | None = None
    warnings: list[str] = []
    items: list[dict[str, Any]] = []
    """Of a batch: what became of each."""
    cancellable: bool = True
    started_at: str
    updated_at: str
    completed_at: str | None = None


class Accepted(Record):
    """What every 202 answers."""

    success: bool = True
    operation_id: str
    status_url: str
