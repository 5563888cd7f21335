"""Images as the API gives them.

Not here: what they are made of (`runtime.spawner`).
"""

from __future__ import annotations

from typing import Literal

from quilt_fn.model.common import Record


class ImageRecord(Record):
    """`host` is this machine's own /usr: always ready, and without a size of its own. `built_at` is ISO 8601 UTC."""

    name: str
    state: Literal["absent", "building", "ready"]
    size_bytes: int | None
    built_at: str | None
    fingerprint: str | None
    """Changes with the image's packages; containers keep the build that they were started on."""
