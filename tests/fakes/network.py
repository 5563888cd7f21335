"""A node's network in memory: nothing is connected, and what was asked is remembered."""

from __future__ import annotations

from runtime.network.api import Allocation, Check, Directory, Place


class FakeNetwork:
    def __init__(self) -> None:
        self.place = Place("quilt0", "10.42.0.0/16", "10.42.0.1", None, None)
        self.closed_in: set[str] = set()
        self.allocated: list[Allocation] = []
        self.found = [Check("link", True, "up")]
        self.directory: Directory | None = None

    async def open(self, directory: Directory) -> None:
        self.directory = directory

    def egress(self, container_id: str) -> bool:
        return container_id not in self.closed_in

    async def set_egress(self, tenant_id: str, container_id: str, egress: bool) -> None:
        (self.closed_in.discard if egress else self.closed_in.add)(container_id)

    async def allocations(self) -> list[Allocation]:
        return list(self.allocated)

    async def checks(self, tenant_id: str, container_id: str, address: str) -> list[Check]:
        return list(self.found)
