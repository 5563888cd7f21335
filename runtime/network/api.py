"""What the pool sees of one node's network, and what it gives it to know. Interfaces and values only, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Asker:
    """The container that an address belongs to."""

    tenant_id: str
    container_id: str


class Directory(Protocol):
    """Who has which name and address now, from memory."""

    def asker(self, address: str) -> Asker | None: ...

    def address_of(self, tenant_id: str, name: str) -> str | None:
        """Of the tenant's running container of that name."""
        ...

    def name_at(self, tenant_id: str, address: str) -> str | None:
        """The reverse; None where the address is another tenant's."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """This node's bridge. Without one, `reason` says why; `egress_reason`, why nothing leaves this machine."""

    bridge: str | None
    subnet: str | None
    gateway: str | None
    reason: str | None
    egress_reason: str | None


@dataclass(frozen=True, slots=True)
class Allocation:
    """An address that is a container's own. `link` is its outer end, where it runs."""

    container_id: str
    tenant_id: str
    address: str
    egress: bool
    link: str | None


@dataclass(frozen=True, slots=True)
class Check:
    """One look at one thing: what was found, in words, and whether it is as it must be (None: it does not apply)."""

    name: str
    ok: bool | None
    found: str


class Network(Protocol):
    """One node's network of containers."""

    @property
    def place(self) -> Place: ...

    async def open(self, directory: Directory) -> None:
        """Look at what there is, and answer containers' questions of DNS from `directory`."""
        ...

    def egress(self, container_id: str) -> bool:
        """Whether it may reach anything but its tenant's containers, from memory."""
        ...

    async def set_egress(self, tenant_id: str, container_id: str, egress: bool) -> None:
        """In force when this returns, for connections that are open too, and at each start from now on."""
        ...

    async def allocations(self) -> list[Allocation]: ...

    async def checks(self, tenant_id: str, container_id: str, address: str) -> list[Check]:
        """What the kernel has of a running container: link, address, routes, neighbours, rules, names, the way out."""
        ...
