"""How much of something a tenant may have: one pure check, called before anything is made.

Not here: what is counted (the callers hand in what there is), nor limits by time (`gateway.limits`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from quilt_fn.errors import QuotaExceeded
from quilt_fn.settings import Settings


@dataclass(frozen=True, slots=True)
class Quotas:
    """Of one tenant; 0 is no limit."""

    containers: int = 0
    container_memory_mb: int = 0
    volumes: int = 0
    volume_mb: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Quotas:
        return cls(
            settings.quota_containers,
            settings.quota_container_memory_mb,
            settings.quota_volumes,
            settings.quota_volume_mb,
        )

    def check_container(self, memory_mb: Collection[int], asked_mb: int) -> None:
        """`memory_mb`: the limit of each container that there is; `asked_mb`: the new one's. Raises QuotaExceeded."""
        _check("containers", self.containers, len(memory_mb), 1)
        self.check_container_memory(sum(memory_mb), asked_mb)

    def check_container_memory(self, used_mb: int, asked_mb: int) -> None:
        """For a resize: `used_mb` is what the others have. Raises QuotaExceeded."""
        _check("container_memory_mb", self.container_memory_mb, used_mb, asked_mb)

    def check_volume(self, size_mb: Collection[int | None], asked_mb: int | None) -> None:
        """`size_mb`: the limit of each volume that there is, None where it has none. Raises QuotaExceeded.

        Under a quota of their total size a new volume needs a limit of its own.
        """
        _check("volumes", self.volumes, len(size_mb), 1)
        if self.volume_mb and asked_mb is None:
            raise QuotaExceeded(
                "a volume needs a `size_limit_mb` here: the total size of a tenant's volumes is limited",
                details={"quota": "volume_mb", "limit": self.volume_mb, "used": _total(size_mb), "asked": None},
            )
        _check("volume_mb", self.volume_mb, _total(size_mb), asked_mb or 0)


def _total(sizes: Collection[int | None]) -> int:
    return sum(size or 0 for size in sizes)


def _check(quota: str, limit: int, used: int, asked: int) -> None:
    if limit and used + asked > limit:
        raise QuotaExceeded(
            f"this tenant may have {limit} {_UNITS[quota]}: it has {used}, and asked for {asked} more",
            details={"quota": quota, "limit": limit, "used": used, "asked": asked},
            hint=f"delete what is not needed, or raise QUILT_QUOTA_{quota.upper()}",
        )


_UNITS = {
    "containers": "containers",
    "container_memory_mb": "MiB of memory in all of its containers",
    "volumes": "volumes",
    "volume_mb": "MiB in all of its volumes",
}
