"""`Client().operations` and `Client().events`: receipts of asynchronous work, and what happens on the platform.

Not here: beginning work (each concern's own methods do that).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from quilt_fn import errors
from quilt_fn.states import OPERATION_ENDS
from quilt_fn.twins import both

if TYPE_CHECKING:
    from quilt_fn.client import Client
    from quilt_fn.connection import Page
    from quilt_fn.model.operation import OperationRecord

POLL_S = 20.0
CANCEL_TIMEOUT_S = 30.0
QUIET_S = 45.0
"""Three heartbeats that did not come: the stream is taken as broken."""
AWAY_MAX_S = 120.0
"""How long a platform that does not answer is asked again for an operation's end."""
RECONNECT_S = (0.1, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Event:
    """`id` None: an event that no stream can be resumed from (`ready` of a resumed one, `heartbeat`, `dropped`)."""

    id: int | None
    kind: str
    data: dict[str, Any]


class Operations:
    """The operations of the client's tenant. Every method raises what `quilt_fn.client.Client` raises."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @both
    async def get(self, operation_id: str) -> OperationRecord:
        """Raises OperationNotFound."""
        return await self._get(operation_id, 0.0)

    @both
    async def list(self, *, status: str | None = None, limit: int = 100, cursor: str | None = None) -> Page:
        """Newest first."""
        from quilt_fn.connection import paged
        from quilt_fn.model.operation import OperationRecord

        return await paged(
            self._client, "/api/operations", "operations", OperationRecord, status=status, limit=limit, cursor=cursor
        )

    @both
    async def wait(self, operation_id: str, timeout_s: float | None = None) -> OperationRecord:
        """The operation when it has ended, however that was. Raises OperationNotFound, and Unavailable where it has not
        ended within `timeout_s`, or nobody answers for two minutes. A node that restarts meanwhile is waited for: its
        operations are durable, and end as NODE_RESTARTED or go on.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s if timeout_s is not None else None
        answered = loop.time()
        pauses = iter(RECONNECT_S)
        while True:
            left = POLL_S if end is None else min(POLL_S, max(0.0, end - loop.time()))
            try:
                found = await self._get(operation_id, left)
            except errors.Unavailable:
                over = loop.time() - answered > AWAY_MAX_S or (end is not None and loop.time() >= end)
                if over:
                    raise
                await asyncio.sleep(next(pauses, RECONNECT_S[-1]))
                continue
            answered, pauses = loop.time(), iter(RECONNECT_S)
            if found.status in OPERATION_ENDS:
                return found
            if end is not None and loop.time() >= end:
                raise errors.Unavailable(
                    f"operation {operation_id} has not ended within {timeout_s:g} s: it is {found.status}",
                    hint=f"quilt operations get {operation_id}",
                )

    @both
    async def cancel(self, operation_id: str) -> OperationRecord:
        """Raises OperationNotFound, OperationEnded, and Conflict where it can't be cancelled."""
        return self._record(await self._client._json("DELETE", _path(operation_id), timeout_s=CANCEL_TIMEOUT_S))

    async def _get(self, operation_id: str, wait_s: float) -> OperationRecord:
        query = {"wait_s": f"{wait_s:.1f}"} if wait_s else {}
        return self._record(
            await self._client._json(
                "GET", _path(operation_id), query=query, timeout_s=wait_s + CANCEL_TIMEOUT_S, safe=True
            )
        )

    def _record(self, answer: dict[str, Any]) -> OperationRecord:
        from quilt_fn.model.operation import OperationRecord

        return OperationRecord.model_validate(answer)


def _path(operation_id: str) -> str:
    return f"/api/operations/{quote(operation_id, safe='')}"


async def follow(client: Client, filters: dict[str, str], after: int | None) -> AsyncGenerator[Event, None]:
    """Events, over broken connections and restarts of the node: each time from the last one that was seen.

    The first connection has to succeed; what keeps it from that is raised.
    """
    pauses = iter(RECONNECT_S)
    connected = False
    while True:
        try:
            async for event in _stream(client, filters, after):
                connected, pauses = True, iter(RECONNECT_S)
                if event.id is not None:
                    after = event.id
                if event.kind != "heartbeat":
                    yield event
        except errors.Unavailable:
            if not connected:
                raise
        await asyncio.sleep(next(pauses, RECONNECT_S[-1]))


async def _stream(client: Client, filters: dict[str, str], after: int | None) -> AsyncGenerator[Event, None]:
    from quilt_fn.transport import Request

    headers = {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": str(after)})
    request = Request("GET", "/api/events", filters, headers, quiet_timeout_s=QUIET_S)
    async with client._send(request) as reply:
        fields: dict[str, str] = {}
        async for line in reply.lines():
            name, _, value = line.decode().rstrip("\r").partition(":")
            if name:
                fields[name] = value.removeprefix(" ")
            elif "event" in fields:
                number = int(fields["id"]) if "id" in fields else None
                yield Event(number, fields["event"], json.loads(fields.get("data", "{}")))
                fields = {}
