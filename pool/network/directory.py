"""Who has which name and address now, from what this process holds of containers.

Implements runtime.network.api.Directory. Not here: answering questions of DNS (`runtime.network.zone`).
"""

from __future__ import annotations

from collections.abc import Iterator

from pool.containers.entry import ContainerEntry
from pool.containers.registry import ContainerRegistry
from quilt_fn.errors import ContainerNotFound
from runtime.containers.api import Containers
from runtime.network.api import Asker


class ContainerDirectory:
    def __init__(self, registry: ContainerRegistry, runtime: Containers) -> None:
        self._registry = registry
        self._runtime = runtime

    def running(self) -> Iterator[tuple[ContainerEntry, str]]:
        """Every container that runs and has an address, with it."""
        for entry in self._registry.all():
            live = self._runtime.get(entry.container_id)
            if live is not None and live.address is not None:
                yield entry, live.address

    def asker(self, address: str) -> Asker | None:
        found = self._at(address)
        return Asker(found.tenant_id, found.container_id) if found is not None else None

    def address_of(self, tenant_id: str, name: str) -> str | None:
        try:
            entry = self._registry.by_name(tenant_id, name)
        except ContainerNotFound:
            return None
        live = self._runtime.get(entry.container_id)
        return live.address if live is not None else None

    def name_at(self, tenant_id: str, address: str) -> str | None:
        found = self._at(address)
        return found.name if found is not None and found.tenant_id == tenant_id else None

    def _at(self, address: str) -> ContainerEntry | None:
        return next((entry for entry, theirs in self.running() if theirs == address), None)
