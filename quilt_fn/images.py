"""`Client().images`: what containers stand on; each method waits, or is awaited as `.aio`.

Not here: containers (`quilt_fn.containers`).
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING
from urllib.parse import quote

from quilt_fn.twins import both

if TYPE_CHECKING:
    from quilt_fn.client import Client
    from quilt_fn.connection import Page


class Images:
    """The platform's images. Every method raises what `quilt_fn.client.Client` raises."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @both
    async def list(self, limit: int = 100, cursor: str | None = None) -> Page:
        """Records, by name."""
        from quilt_fn.connection import paged
        from quilt_fn.model.image import ImageRecord

        return await paged(self._client, "/api/images", "images", ImageRecord, limit=limit, cursor=cursor)

    @both
    async def build(self, name: str) -> str:
        """The id of the operation that builds it: `Client().operations.wait` waits. Raises ImageNotFound, Conflict."""
        answer = await self._client._json(
            "POST", f"/api/images/{quote(name, safe='')}/build",
            headers={"Idempotency-Key": secrets.token_hex(16)}, safe=True,
        )  # fmt: skip
        return str(answer["operation_id"])

    @both
    async def delete(self, name: str) -> None:
        """Raises ImageNotFound, and Conflict while containers stand on it."""
        from quilt_fn.transport import Request

        async with self._client._send(Request("DELETE", f"/api/images/{quote(name, safe='')}")) as reply:
            await reply.read()
