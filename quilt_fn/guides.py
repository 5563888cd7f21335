"""`Client().guides`: what the platform tells of each of its concerns; each method waits, or is awaited as `.aio`.

Not here: the concerns themselves (`Client().containers` and its like).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from quilt_fn.twins import both

if TYPE_CHECKING:
    from quilt_fn.client import Client


class Guides:
    """Made by the platform from its own routes, models and state tables, so they fit the version that runs.

    Every method raises what `quilt_fn.client.Client` raises; RouteNotFound where there is no such concern.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    @both
    async def list(self) -> dict[str, str]:
        """What each concern is, by name."""
        document = await self._client._json("GET", "/openapi.json", safe=True)
        own = {path.split("/")[2] for path in document["paths"] if path.startswith("/api/") and path.endswith("/help")}
        return {tag["name"]: tag["description"] for tag in document["tags"] if tag["name"] in own}

    @both
    async def help(self, concern: str) -> dict[str, Any]:
        """{concern, says, routes, states, rules}."""
        return await self._told(concern, "help")

    @both
    async def examples(self, concern: str) -> dict[str, Any]:
        """{concern, references, examples}: requests that work in their order, each also as a curl command."""
        return await self._told(concern, "examples")

    @both
    async def health(self, concern: str) -> dict[str, Any]:
        """{concern, healthy, reason}: whether it can work now."""
        return await self._told(concern, "health")

    @both
    async def page(self, concern: str, about: str = "help") -> str:
        """The same as Markdown; `about` is help | examples | health."""
        from quilt_fn.transport import Request

        path = f"/api/{quote(concern, safe='')}/{quote(about, safe='')}"
        async with self._client._send(Request("GET", path, {"format": "markdown"})) as reply:
            return (await reply.read()).decode()

    async def _told(self, concern: str, about: str) -> dict[str, Any]:
        return await self._client._json("GET", f"/api/{quote(concern, safe='')}/{about}", safe=True)
