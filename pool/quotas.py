"""How much of something a tenant may have: one pure check, called before anything is made.

Not here: what is counted (the callers hand in what there is), nor limits by time (`gateway.limits`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from quilt_fn.errors import QuotaExceeded
from quilt_fn.settings import Settings
from runtime.volumes import streams

T = TypeVar("T")


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

    def check_containers(self, used: int) -> None:
        """One more container than `used`. Raises QuotaExceeded."""
        _check("containers", self.containers, used, 1)

    def check_container_memory(self, used_mb: int, asked_mb: int) -> None:
        """So much more memory than `used_mb`. Raises QuotaExceeded."""
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


class TenantQuotas:
    """The same over all tenants, with what is just being made counted: hold `container` or `volume` around the write.

    `containers` gives id → memory limit in MiB of a tenant's containers, `volumes` the size limits of its volumes.
    """

    def __init__(
        self,
        quotas: Quotas,
        containers: Callable[[str], Mapping[str, int]],
        volumes: Callable[[str], Collection[int | None]],
    ) -> None:
        self._quotas = quotas
        self._containers = containers
        self._volumes = volumes
        self._coming: dict[str, list[tuple[int, int]]] = defaultdict(list)
        """(1 for a new container, else 0; MiB more)."""
        self._coming_volumes: dict[str, list[int | None]] = defaultdict(list)

    @contextmanager
    def container(self, tenant_id: str, memory_mb: int, resized: str | None) -> Iterator[None]:
        """Around the making of a container, or the resizing of the one named. Raises QuotaExceeded."""
        there, coming = self._containers(tenant_id), self._coming[tenant_id]
        used_mb = sum(there.values()) + sum(mb for _, mb in coming)
        if resized is None:
            asked = (1, memory_mb)
            self._quotas.check_containers(len(there) + sum(new for new, _ in coming))
        else:  # its old limit stands in `containers` until the new one is written
            asked = (0, max(0, memory_mb - there.get(resized, 0)))
        if asked[1]:
            self._quotas.check_container_memory(used_mb, asked[1])
        with _held(coming, asked):
            yield

    @contextmanager
    def volume(self, tenant_id: str, size_mb: int | None) -> Iterator[None]:
        """Around the making of a volume. Raises QuotaExceeded."""
        coming = self._coming_volumes[tenant_id]
        self._quotas.check_volume([*self._volumes(tenant_id), *coming], size_mb)
        with _held(coming, size_mb):
            yield


@contextmanager
def _held(coming: list[T], asked: T) -> Iterator[None]:
    coming.append(asked)
    try:
        yield
    finally:
        coming.remove(asked)


def _total(sizes: Collection[int | None]) -> int:
    return sum(size or 0 for size in sizes)


def check_fixed(quota: str, limit: int, used: int, says: str, hint: str, retry_after: float | None = None) -> None:
    """One more of what no setting limits, so that one tenant can't use up the node. `says`: what there are too many of.
    `retry_after`: seconds after which there may be fewer by themselves. Raises QuotaExceeded.
    """
    if used >= limit:
        raise QuotaExceeded(
            f"{used} {says}, and a tenant may have {limit}",
            details={"quota": quota, "limit": limit, "used": used, "asked": 1}, hint=hint, retry_after=retry_after,
        )  # fmt: skip


class AtOnce:
    """So many of something under way for one tenant: one more is refused, and does not wait. The words as in
    `check_fixed`.
    """

    def __init__(self, quota: str, limit: int, says: str, hint: str) -> None:
        self._quota, self.limit, self._says, self._hint = quota, limit, says, hint
        self._running: Counter[str] = Counter()

    @contextmanager
    def one_more(self, tenant_id: str) -> Iterator[None]:
        """Around it. Raises QuotaExceeded."""
        check_fixed(self._quota, self.limit, self._running[tenant_id], self._says, self._hint, retry_after=1.0)
        self._running[tenant_id] += 1
        try:
            yield
        finally:
            self._running[tenant_id] -= 1
            if not self._running[tenant_id]:
                del self._running[tenant_id]

    async def around(self, tenant_id: str, pieces: AsyncIterator[T]) -> AsyncIterator[T]:
        """The same pieces, counted from the first until they end or are closed. Raises QuotaExceeded."""
        with self.one_more(tenant_id):
            try:
                async for piece in pieces:
                    yield piece
            finally:
                await streams.closed(pieces)


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
