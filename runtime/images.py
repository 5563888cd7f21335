"""The images that containers of this node can stand on: list, build and delete them, by the spawner.

Not here: which container stands on what (`runtime.containers`), nor receipts of builds (`pool.images`).
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from quilt_fn.errors import BuildFailed, Conflict, ImageNotFound
from runtime.spawner_client import SpawnerClient, SpawnerFailed

BUILD_TIMEOUT_S = 1200.0


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image as it is on this node. `built_at` is epoch seconds; without a fingerprint it is not built."""

    name: str
    fingerprint: str | None
    size_bytes: int | None
    built_at: float | None


class Images(Protocol):
    """One node's images."""

    async def list(self) -> builtins.list[ImageFacts]: ...

    async def build(self, name: str, progress: Callable[[str, float], None]) -> dict[str, Any]:
        """Build it, also where it is there already; what stands on the old one keeps it. {fingerprint, size_bytes,
        built_at}. Raises BuildFailed, ImageNotFound. What a failed build had half made is gone. `progress` is told
        lines, and how many percent are done, which never falls.
        """
        ...

    async def delete(self, name: str) -> None:
        """Raises ImageNotFound, and Conflict while containers stand on it."""
        ...


class NodeImages:
    """See `Images`. `ready` are the names of those that a container can be started on, as of the last look."""

    def __init__(self, spawner: SpawnerClient) -> None:
        self._spawner = spawner
        self.ready = {"host"}

    def is_ready(self, name: str) -> bool:
        return name in self.ready

    async def list(self) -> builtins.list[ImageFacts]:
        answer, _ = await self._spawner.request("image_list")
        found = [ImageFacts(**each) for each in answer["images"]]
        self.ready = {each.name for each in found if each.fingerprint}
        return found

    async def build(self, name: str, progress: Callable[[str, float], None]) -> dict[str, Any]:
        try:
            answer, _ = await self._spawner.request(
                "image_build", name=name, progress=progress, timeout_s=BUILD_TIMEOUT_S
            )
        except SpawnerFailed as error:
            if error.kind == "build":
                raise BuildFailed(error.message, details=error.details) from error
            raise _absent(error) from error
        self.ready.add(name)
        return {key: answer[key] for key in ("fingerprint", "size_bytes", "built_at")}

    async def delete(self, name: str) -> None:
        try:
            await self._spawner.request("image_drop", name=name)
        except SpawnerFailed as error:
            if error.kind == "refused":
                raise Conflict(error.message, details=error.details) from error
            raise _absent(error) from error
        self.ready.discard(name)


def _absent(error: SpawnerFailed) -> Exception:
    if error.kind == "absent":
        return ImageNotFound(error.message, hint="`quilt images list` shows what there is")
    return error
