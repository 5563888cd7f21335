"""Addresses, names and egress of a tenant's containers. Implements pool.network.api.NetworkService.

Not here: published services (`published`).
"""

from __future__ import annotations

from pool.containers.entry import ContainerEntry
from pool.containers.registry import ContainerRegistry, place
from pool.network.directory import ContainerDirectory
from pool.paging import newest_first
from quilt_fn.errors import Conflict, ContainerNotRunning
from quilt_fn.model.network import (
    AllocationRecord,
    CheckRecord,
    Diagnostics,
    NameRecord,
    NetworkRecord,
    NetworkUpdate,
)
from runtime.network.api import Network
from runtime.network.zone import DOMAIN


class Networks:
    def __init__(self, registry: ContainerRegistry, directory: ContainerDirectory, network: Network) -> None:
        self._registry = registry
        self._directory = directory
        self._network = network

    async def get(self, tenant_id: str, container_id: str) -> NetworkRecord:
        entry = self._registry.get(tenant_id, container_id)
        where = self._network.place
        if entry.spec.network == "none":
            return NetworkRecord(
                container_id=container_id, network="none", ip_address=None, gateway=None, subnet=None, bridge=None,
                egress=False, names=[],
            )  # fmt: skip
        return NetworkRecord(
            container_id=container_id, network="bridge", ip_address=entry.kept.address, gateway=where.gateway,
            subnet=where.subnet, bridge=where.bridge, egress=self._network.egress(container_id),
            names=[entry.name, f"{entry.name}.{DOMAIN}"],
        )  # fmt: skip

    async def update(self, tenant_id: str, container_id: str, body: NetworkUpdate) -> NetworkRecord:
        entry = connected(self._registry, tenant_id, container_id)
        async with entry.lock:  # a delete that comes meanwhile takes the address along
            self._registry.get(tenant_id, container_id)
            await self._network.set_egress(tenant_id, container_id, body.egress)
        return await self.get(tenant_id, container_id)

    async def diagnostics(self, tenant_id: str, container_id: str) -> Diagnostics:
        entry = connected(self._registry, tenant_id, container_id)
        address = self._directory.address_of(tenant_id, entry.name)
        if address is None:
            raise ContainerNotRunning(
                f"the container {entry.name!r} is {entry.state}", details={"state": entry.state}, hint="Start it."
            )
        found = await self._network.checks(tenant_id, container_id, address)
        checks = [CheckRecord(name=check.name, ok=check.ok, found=check.found) for check in found]
        return Diagnostics(
            container_id=container_id, healthy=all(check.ok is not False for check in checks), checks=checks
        )

    async def allocations(
        self, tenant_id: str, limit: int, cursor: str | None
    ) -> tuple[list[AllocationRecord], str | None]:
        theirs = [
            (entry, found)
            for found in await self._network.allocations()
            if found.tenant_id == tenant_id and (entry := self._registry.find(tenant_id, found.container_id))
        ]
        page, after = newest_first(theirs, lambda each: place(each[0]), limit, cursor)
        records = [
            AllocationRecord(
                container_id=entry.container_id, name=entry.name, ip_address=found.address, egress=found.egress,
                attached=found.link is not None,
            )
            for entry, found in page
        ]  # fmt: skip
        return records, after

    def names(self, tenant_id: str, limit: int, cursor: str | None) -> tuple[list[NameRecord], str | None]:
        theirs = [each for each in self._directory.running() if each[0].tenant_id == tenant_id]
        page, after = newest_first(theirs, lambda each: place(each[0]), limit, cursor)
        records = [
            NameRecord(
                name=entry.name, fqdn=f"{entry.name}.{DOMAIN}", ip_address=address, container_id=entry.container_id
            )
            for entry, address in page
        ]
        return records, after

    def missing(self) -> list[str]:
        where = self._network.place
        return [reason for reason in (where.reason, where.egress_reason) if reason]


def connected(registry: ContainerRegistry, tenant_id: str, container_id: str) -> ContainerEntry:
    """The container, where it is one with a network. Raises ContainerNotFound, Conflict."""
    entry = registry.get(tenant_id, container_id)
    if entry.spec.network == "none":
        raise Conflict(
            f"the container {entry.name!r} was made with `network: none`", hint="Make one with `network: bridge`."
        )
    return entry
