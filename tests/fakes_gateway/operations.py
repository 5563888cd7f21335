"""Operations in memory: `begin` runs nothing, a test moves the record by hand with `end`.

Not here: works, timeouts, Redis (tests/contract has the real one).
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pool import api
from quilt_fn.errors import OperationEnded, OperationNotFound
from quilt_fn.model.operation import OperationRecord
from quilt_fn.states import OPERATION_ENDS, OperationStatus

AT = "2026-01-01T00:00:00.000Z"


class FakeOperations:
    def __init__(self) -> None:
        self.records: dict[tuple[str, str], OperationRecord] = {}
        self.works: dict[str, api.Work] = {}
        self._ended: dict[str, asyncio.Event] = {}

    async def begin(
        self,
        tenant_id: str,
        operation_type: str,
        target: tuple[str, str],
        work: api.Work,
        *,
        timeout_s: float,
        cancellable: bool = True,
        items: Sequence[Mapping[str, Any]] = (),
    ) -> OperationRecord:
        record = OperationRecord(
            operation_id=f"op_{len(self.records) + 1}", operation_type=operation_type, status=OperationStatus.ACCEPTED,
            target_resource_type=target[0], target_resource_id=target[1], items=[dict(item) for item in items],
            cancellable=cancellable, started_at=AT, updated_at=AT,
        )  # fmt: skip
        self.records[tenant_id, record.operation_id] = record
        self.works[record.operation_id] = work
        self._ended[record.operation_id] = asyncio.Event()
        return record

    def end(self, operation_id: str, status: OperationStatus = OperationStatus.SUCCEEDED) -> None:
        for name, record in self.records.items():
            if name[1] == operation_id:
                self.records[name] = record.model_copy(update={"status": status, "completed_at": AT})
        self._ended[operation_id].set()

    async def get(self, tenant_id: str, operation_id: str, wait_s: float = 0.0) -> OperationRecord:
        if (tenant_id, operation_id) not in self.records:
            raise OperationNotFound(f"no operation {operation_id}")
        if wait_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended[operation_id].wait(), wait_s)
        return self.records[tenant_id, operation_id]

    async def list(
        self, tenant_id: str, status: str | None, limit: int, cursor: str | None
    ) -> tuple[builtins.list[OperationRecord], str | None]:
        mine = [record for (tenant, _), record in self.records.items() if tenant == tenant_id]
        return [each for each in reversed(mine) if status in (None, each.status)][:limit], None

    async def cancel(self, tenant_id: str, operation_id: str) -> OperationRecord:
        record = await self.get(tenant_id, operation_id)
        if record.status in OPERATION_ENDS:
            raise OperationEnded(f"operation {operation_id} has ended", details={"status": record.status})
        self.end(operation_id, OperationStatus.CANCELLED)
        return self.records[tenant_id, operation_id]


if TYPE_CHECKING:
    _operations: api.Operations = FakeOperations()
