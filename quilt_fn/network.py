"""`Client().network` and `Client().services`: what containers reach, and what of them is reached from outside.

Each method waits, or is awaited as `.aio`. A container is named by its name or its id. Not here: making containers.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from quilt_fn.twins import both

if TYPE_CHECKING:
    from quilt_fn.client import Client
    from quilt_fn.connection import Page
    from quilt_fn.model.network import Diagnostics, NetworkRecord, ServiceRecord


class Network:
    """Addresses, names and egress of the client's tenant's containers. Every method raises what Client raises."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @both
    async def get(self, container: str) -> NetworkRecord:
        """Raises ContainerNotFound."""
        from quilt_fn.model.network import NetworkRecord

        path = await _path(self._client, container, "network")
        return NetworkRecord.model_validate(await self._client._json("GET", path, safe=True))

    @both
    async def set_egress(self, container: str, egress: bool) -> NetworkRecord:
        """Whether it reaches anything but its tenant's containers; in force when this returns, for open connections
        too. Raises Conflict where it was made without a network.
        """
        from quilt_fn.model.network import NetworkRecord

        path = await _path(self._client, container, "network")
        return NetworkRecord.model_validate(await self._client._json("PUT", path, {"egress": egress}, safe=True))

    @both
    async def diagnose(self, container: str) -> Diagnostics:
        """Each check is made now. Raises ContainerNotRunning."""
        from quilt_fn.model.network import Diagnostics

        path = await _path(self._client, container, "network/diagnostics")
        return Diagnostics.model_validate(await self._client._json("GET", path, safe=True))

    @both
    async def allocations(self, limit: int = 100, cursor: str | None = None) -> Page:
        """The addresses that are containers' own, running or not, the newest container's first."""
        from quilt_fn.connection import paged
        from quilt_fn.model.network import AllocationRecord

        path = "/api/network/allocations"
        return await paged(self._client, path, "allocations", AllocationRecord, limit=limit, cursor=cursor)

    @both
    async def names(self, limit: int = 100, cursor: str | None = None) -> Page:
        """The names that the tenant's containers find, the newest container's first."""
        from quilt_fn.connection import paged
        from quilt_fn.model.network import NameRecord

        return await paged(self._client, "/api/dns/entries", "entries", NameRecord, limit=limit, cursor=cursor)


class Services:
    """Ports of containers that are reached from outside, at `<platform>/linx/<service id>/`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @both
    async def publish(
        self, container: str, name: str, target_port: int, *, auth_mode: str = "token", ttl_secs: float | None = None
    ) -> ServiceRecord:
        """The record with its `token`, which nobody sees again. Raises NameTaken, Conflict, InvalidValue."""
        from quilt_fn.model.network import ServiceRecord

        path = await _path(self._client, container, "services")
        body = {"name": name, "target_port": target_port, "auth_mode": auth_mode, "ttl_secs": ttl_secs}
        answer = await self._client._json("POST", path, body, headers={"Idempotency-Key": secrets.token_hex(16)})
        return ServiceRecord.model_validate(answer)

    @both
    async def list(self, container: str, limit: int = 100, cursor: str | None = None) -> Page:
        """Records, newest first, without their tokens."""
        from quilt_fn.connection import paged
        from quilt_fn.model.network import ServiceRecord

        path = await _path(self._client, container, "services")
        return await paged(self._client, path, "services", ServiceRecord, limit=limit, cursor=cursor)

    @both
    async def withdraw(self, container: str, service: str) -> None:
        """By the service's name or id. Raises ServiceNotFound."""
        from quilt_fn.errors import ServiceNotFound

        for each in await self.list.aio(container):
            if service in (each.name, each.service_id):
                path = await _path(self._client, each.container_id, f"services/{each.service_id}")
                await self._client._nothing("DELETE", path)
                return
        raise ServiceNotFound(f"the container publishes no service {service!r}")


async def _path(client: Client, container: str, rest: str) -> str:
    if not container.startswith("ctr_"):
        container = (await client.containers.get.aio(container)).id
    return f"/api/containers/{container}/{rest}"
