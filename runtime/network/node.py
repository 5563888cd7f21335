"""One node's network of containers: the spawner makes and changes it, this asks it and answers its names.

Implements runtime.network.api.Network. Not here: who owns what, and who has which name (the pool's Directory).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from typing import Any

import dns.message
import dns.rcode

from quilt_fn.errors import ContainerNotRunning
from runtime.network.api import Allocation, Check, Directory, Place
from runtime.network.responder import Responder
from runtime.network.upstream import Upstream
from runtime.network.zone import DOMAIN, Zone
from runtime.spawner_client import SpawnerClient, SpawnerFailed

log = logging.getLogger(__name__)

PROBE_S = 2.0
BIND_TRIES = 20
BIND_PAUSE_S = 0.1
UNKNOWN = Place(None, None, None, "the network was not looked at yet", None)


class NodeNetwork:
    """See runtime.network.api.Network for the contract of each method."""

    def __init__(self, spawner: SpawnerClient) -> None:
        self._spawner = spawner
        self._upstream = Upstream()
        self._responder: Responder | None = None
        self._closed_in: set[str] = set()
        self.place = UNKNOWN

    async def open(self, directory: Directory) -> None:
        """Take the name server's sockets, and answer. Where this machine has no network, `place.reason` says so."""
        answer, fds = await self._place()
        self.place = Place(**{name: answer[name] for name in Place.__dataclass_fields__})
        for found in await self.allocations():
            if not found.egress:
                self._closed_in.add(found.container_id)
        if self.place.subnet is None:
            log.warning("%s", self.place.reason)
            return
        zone = Zone(directory, ipaddress.IPv4Network(self.place.subnet))
        self._responder = Responder(directory, zone, self._upstream, self.egress)
        await self._responder.open(*(socket.socket(fileno=fd) for fd in fds))

    async def _place(self) -> tuple[dict[str, Any], list[int]]:
        """The node before this one may still have the sockets open for a moment."""
        for left in range(BIND_TRIES, -1, -1):
            try:
                return await self._spawner.request("network")
            except SpawnerFailed:
                if not left:
                    raise
                await asyncio.sleep(BIND_PAUSE_S)
        raise AssertionError("the last try returns or raises")

    async def close(self) -> None:
        if self._responder is not None:
            await self._responder.close()

    def egress(self, container_id: str) -> bool:
        return container_id not in self._closed_in

    async def set_egress(self, tenant_id: str, container_id: str, egress: bool) -> None:
        if not egress:  # first, so that no question slips out in between
            self._closed_in.add(container_id)
        await self._spawner.request("egress", container=container_id, tenant=tenant_id, egress=egress)
        if egress:
            self._closed_in.discard(container_id)

    async def allocations(self) -> list[Allocation]:
        found: list[Allocation] = []
        more = True
        while more:
            after = found[-1].container_id if found else ""
            answer, _ = await self._spawner.request("allocations", after=after)
            found += [
                Allocation(row["container"], row["tenant"], row["address"] or "", row["egress"], row["link"])
                for row in answer["allocations"]
            ]
            more = answer["more"]
        return found

    async def checks(self, tenant_id: str, container_id: str, address: str) -> list[Check]:
        try:
            seen, fds = await self._spawner.request("look", container=container_id, tenant=tenant_id)
        except SpawnerFailed as error:
            if error.kind == "absent":
                raise ContainerNotRunning(error.message, hint="Start it.") from error
            raise
        datagrams, stream = (socket.socket(fileno=fd) for fd in fds)
        with datagrams, stream:
            names, way_out = await asyncio.gather(self._names(datagrams), self._way_out(stream, container_id, seen))
        return [*self._kernels(seen, address), names, *way_out]

    def _kernels(self, seen: dict[str, Any], address: str) -> list[Check]:
        """Of what the kernel has."""
        link, gateway = seen["link"], self.place.gateway
        route, neighbour = seen["host_route_dev"], seen["neighbour"]
        return [
            Check("link", seen["link_up"], f"{link} is {'up' if seen['link_up'] else 'down, or not there'}"),
            Check("address", address in seen["addresses"], f"eth0 has {', '.join(seen['addresses']) or 'no address'}"),
            Check("route", route == link and seen["default_via"] == gateway,
                  f"this machine reaches {address} by {route}, the container the rest by {seen['default_via']}"),
            Check("neighbour", neighbour is not None, f"{address} is at {neighbour or 'nobody'}"),
            Check("rules", seen["rules"] and seen["pairs"] and seen["forwarding"],
                  "the table of rules is there, and lets the tenant's containers meet"
                  if seen["rules"] and seen["pairs"] and seen["forwarding"]
                  else f"table {seen['rules']}, the tenant's pair {seen['pairs']}, forwarding {seen['forwarding']}"),
        ]  # fmt: skip

    async def _names(self, sock: socket.socket) -> Check:
        """Ask as the container would."""
        query = dns.message.make_query(f"{DOMAIN}.", "A")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PROBE_S):
                sock.connect((self.place.gateway, 53))
                await loop.sock_sendall(sock, query.to_wire())
                answer = dns.message.from_wire(await loop.sock_recv(sock, 4096))
        except (OSError, TimeoutError) as error:
            return Check("dns", False, f"the name server at {self.place.gateway} does not answer: {_words(error)}")
        return Check("dns", answer.rcode() == dns.rcode.NOERROR, f"{self.place.gateway} answers for {DOMAIN}")

    async def _way_out(self, sock: socket.socket, container_id: str, seen: dict[str, Any]) -> list[Check]:
        """NAT by what is set up, egress by a connection to one of this machine's name servers."""
        up = bool(seen["uplinks"]) and seen["uplinks_forward"] and seen["masquerade"]
        says = f"by {', '.join(seen['uplinks'])}" if seen["uplinks"] else "this machine has no default route"
        if seen["filter_drops"] is not None:
            says += f"; the chain `{seen['filter_drops']}` of somebody else drops what it does not know: allow {self.place.subnet} there"  # noqa: E501
        nat = Check("nat", up, says)
        target = next((s for s in self._upstream.servers() if not s.startswith("127.") and ":" not in s), None)
        if target is None:
            return [nat, Check("egress", None, "this machine names no server outside that could be tried")]
        reached, how = await _reached(sock, target)
        if not self.egress(container_id):
            return [nat, Check("egress", None if not reached else False, f"switched off; {target}:53 {how}")]
        return [nat, Check("egress", reached, f"{target}:53 {how}")]


async def _reached(sock: socket.socket, target: str) -> tuple[bool, str]:
    """A refusal by the other side is as good an answer as a connection."""
    try:
        async with asyncio.timeout(PROBE_S):
            await asyncio.get_running_loop().sock_connect(sock, (target, 53))
    except ConnectionRefusedError:
        return True, "answers (and refuses)"
    except (OSError, TimeoutError) as error:
        return False, f"is not reached: {_words(error)}"
    return True, "is reached"


def _words(error: BaseException) -> str:
    return str(error) or f"no answer within {PROBE_S:g} s"
