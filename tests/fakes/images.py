"""Images in memory. `hold` keeps a build waiting, `fail` makes it fail, `users` forbid a delete.

Not here: any building.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable
from typing import Any

from quilt_fn.errors import Conflict, ImageNotFound, QuiltError
from runtime.images import ImageFacts


class FakeImages:
    """See runtime.images.Images."""

    def __init__(self) -> None:
        self.debian: dict[str, Any] | None = None
        self.hold = asyncio.Event()
        self.hold.set()
        self.fail: QuiltError | None = None
        self.users = 0

    async def list(self) -> builtins.list[ImageFacts]:
        built = self.debian or {"fingerprint": None, "size_bytes": None, "built_at": None}
        return [ImageFacts("host", "h" * 32, None, None), ImageFacts("debian", **built)]

    async def build(self, name: str, progress: Callable[[str, float], None]) -> dict[str, Any]:
        progress("I: extracting archives...", 12.0)
        await self.hold.wait()
        if self.fail is not None:
            raise self.fail
        self.debian = {"fingerprint": "d" * 32, "size_bytes": 5_000_000, "built_at": 1_000.0}
        return self.debian

    async def delete(self, name: str) -> None:
        if self.debian is None:
            raise ImageNotFound("the image debian is not built")
        if self.users:
            raise Conflict("containers stand on the image debian", details={"users": self.users})
        self.debian = None
