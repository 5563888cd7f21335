"""Archives in and out of containers that run: into one as an operation, out of one as a stream.

Not here: what an archive may hold, and how it gets in (`runtime.containers`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from pool import tasks
from pool.api import Operations, Report
from pool.containers.service import ContainerService
from pool.quotas import AtOnce
from quilt_fn.model.operation import OperationRecord
from runtime.containers.api import Containers
from runtime.volumes import streams

UNPACK_TIMEOUT_S = 3600.0


class ContainerArchives:
    """`archives` counts those of a tenant, of volumes too."""

    def __init__(
        self, containers: ContainerService, runtime: Containers, operations: Operations, archives: AtOnce
    ) -> None:
        self._archives = archives
        self._containers = containers
        self._runtime = runtime
        self._operations = operations

    async def unpack(
        self, tenant_id: str, container_id: str, path: str, strip: int, body: AsyncIterator[bytes]
    ) -> OperationRecord:
        """Returns when all of `body` was taken, or the operation has ended. Raises ContainerNotFound,
        ContainerNotRunning, QuotaExceeded.
        """
        self._containers.running(tenant_id, container_id)
        taken = asyncio.Event()

        async def read() -> AsyncIterator[bytes]:
            async for piece in body:
                yield piece
            taken.set()

        async def work(report: Report) -> dict[str, Any]:
            try:
                report(None, "unpacking")
                entries, size = await self._runtime.unpack(container_id, path, strip, read())
                return {"path": path, "entries": entries, "bytes": size}
            finally:
                taken.set()

        with self._archives.one_more(tenant_id):
            record = await self._operations.begin(
                tenant_id, "container.unpack", ("container", container_id), work, timeout_s=UNPACK_TIMEOUT_S
            )
            # Also the end: an operation that is cancelled before it began takes nothing.
            waits = {
                asyncio.create_task(taken.wait()),
                asyncio.create_task(self._operations.get(tenant_id, record.operation_id, UNPACK_TIMEOUT_S)),
            }
            try:
                done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    each.exception()  # seen: where Redis is away the receipt can't be read, and it has ended
            finally:
                await tasks.end(waits)
        return record

    async def pack(self, tenant_id: str, container_id: str, path: str, *, zipped: bool) -> AsyncIterator[bytes]:
        """Raises ContainerNotFound, ContainerNotRunning, FileNotThere, QuotaExceeded before it returns."""
        self._containers.running(tenant_id, container_id)
        pieces = self._runtime.pack(container_id, path, zipped=zipped)
        return await streams.first(self._archives.around(tenant_id, pieces))
