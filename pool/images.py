"""The images of this node as its users see them: the list, builds with a receipt, deletes.

Images belong to the platform, not to a tenant: what one has built all can use. Not here: how one is built.
"""

from __future__ import annotations

import builtins

from pool.api import Operations, Report
from pool.clock import iso
from pool.paging import by_name
from quilt_fn.errors import Conflict, ImageNotFound
from quilt_fn.model.image import ImageRecord
from quilt_fn.model.operation import OperationRecord
from runtime.images import BUILD_TIMEOUT_S, Images

BUILT_HERE = ("debian",)


class ImageService:
    def __init__(self, images: Images, operations: Operations) -> None:
        self._images = images
        self._operations = operations
        self._building: set[str] = set()

    async def list(self, limit: int, cursor: str | None) -> tuple[builtins.list[ImageRecord], str | None]:
        """A page of them, by name, and the next page's cursor. Raises InvalidValue for what is no cursor."""
        records = [
            ImageRecord(
                name=each.name,
                state="building" if each.name in self._building else "ready" if each.fingerprint else "absent",
                size_bytes=each.size_bytes,
                built_at=iso(each.built_at) if each.built_at is not None else None,
                fingerprint=each.fingerprint,
            )
            for each in await self._images.list()
        ]
        return by_name(records, lambda record: record.name, limit, cursor)

    async def build(self, tenant_id: str, name: str) -> OperationRecord:
        """Begin a build. Raises ImageNotFound (no image of that name is built here), Conflict (one is under way)."""
        if name not in BUILT_HERE:
            raise ImageNotFound(f"no image {name[:100]!r} is built here", hint="`quilt images build debian` builds one")
        if name in self._building:
            raise Conflict(
                f"the image {name} is being built already", hint="`quilt images list` tells when it is ready"
            )
        self._building.add(name)

        async def work(report: Report) -> dict[str, object]:
            try:
                return await self._images.build(name, lambda text, pct: report(pct, text))
            finally:
                self._building.discard(name)

        try:
            return await self._operations.begin(
                tenant_id, "image.build", ("image", name), work, timeout_s=BUILD_TIMEOUT_S, cancellable=False
            )
        except BaseException:
            self._building.discard(name)
            raise

    async def delete(self, name: str) -> None:
        """Raises ImageNotFound, and Conflict while it is built or containers stand on it."""
        if name not in BUILT_HERE:
            raise ImageNotFound(f"no image {name[:100]!r} can be deleted")
        if name in self._building:
            raise Conflict(f"the image {name} is being built")
        await self._images.delete(name)
