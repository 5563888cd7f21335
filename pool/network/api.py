"""What the gateway sees of networks and published services. Interfaces and values only.

Everywhere the tenant comes first, then the container's id. Raises ContainerNotFound, RegistryUnavailable.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Protocol

from quilt_fn.model.network import (
    AllocationRecord,
    Diagnostics,
    NameRecord,
    NetworkRecord,
    NetworkUpdate,
    ServiceCreate,
    ServiceRecord,
)


class NetworkService(Protocol):
    async def get(self, tenant_id: str, container_id: str) -> NetworkRecord: ...

    async def update(self, tenant_id: str, container_id: str, body: NetworkUpdate) -> NetworkRecord:
        """In force when this returns. Raises Conflict where the container has no network."""
        ...

    async def diagnostics(self, tenant_id: str, container_id: str) -> Diagnostics:
        """Each check is made now. Raises ContainerNotRunning."""
        ...

    async def allocations(
        self, tenant_id: str, limit: int, cursor: str | None
    ) -> tuple[list[AllocationRecord], str | None]:
        """A page of them, the newest container's first, and the next page's cursor. Raises InvalidValue."""
        ...

    def names(self, tenant_id: str, limit: int, cursor: str | None) -> tuple[list[NameRecord], str | None]:
        """As `allocations`, of those that run."""
        ...

    def missing(self) -> list[str]:
        """What this machine can't do, and why; empty where it can do all."""
        ...


@dataclass(frozen=True, slots=True)
class Door:
    """Where a service's requests go: always to its own container."""

    service_id: str
    address: str
    port: int


class Published(Protocol):
    async def create(self, tenant_id: str, container_id: str, body: ServiceCreate) -> ServiceRecord:
        """Raises NameTaken, Conflict where the container has no network, QuotaExceeded."""
        ...

    def list(
        self, tenant_id: str, container_id: str, limit: int, cursor: str | None
    ) -> tuple[builtins.list[ServiceRecord], str | None]:
        """A page of them, newest first, and the next page's cursor. Raises ContainerNotFound, InvalidValue."""
        ...

    async def delete(self, tenant_id: str, container_id: str, service_id: str) -> None:
        """Raises ServiceNotFound."""
        ...

    def door(self, service_id: str, tokens: builtins.list[str]) -> Door:
        """For a request that carries `tokens`, from memory. Raises ServiceNotFound, Unauthenticated (none was needed
        and none came), Forbidden (none of them opens it), Unavailable (the container does not run).
        """
        ...
