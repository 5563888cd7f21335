"""What the node may ask of the containers' network: the place, addresses, egress, and a look at what the kernel has.

Not here: attaching a container, which is a part of its start (`machines`), and how it is done (`attachments`).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.spawner import kernel, machines, programs, surroundings
from runtime.spawner.context import Answer, Context, Message, same_process
from runtime.spawner.names import checked
from runtime.spawner.protocol import Refused

PAGE = 200
DNS_PORT = 53


class Wires(Context):
    """The operations on the containers' network."""

    def network(self, message: Message, fds: list[int]) -> Answer:
        """→ {bridge, subnet, gateway, reason, egress_reason}; where there is no reason, [datagrams, stream]: sockets on
        port 53 of the gateway's address, which only containers reach.
        """
        nets = self.networks.containers
        if nets.reason or nets.subnet is None:
            return {"bridge": None, "subnet": None, "gateway": None, "reason": nets.reason, "egress_reason": None}, []
        place = {"bridge": nets.bridge, "subnet": str(nets.subnet), "gateway": nets.gateway, "reason": None,
                 "egress_reason": nets.egress_reason}  # fmt: skip
        made: list[socket.socket] = []
        try:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                sock = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
                made.append(sock)
                if kind == socket.SOCK_STREAM:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((nets.gateway, DNS_PORT))
            made[1].listen(64)
        except OSError as error:
            for sock in made:
                sock.close()
            raise Refused(f"port {DNS_PORT} of {nets.gateway} can't be had: {error}", "failed") from None
        return place, [sock.detach() for sock in made]

    def allocations(self, message: Message, fds: list[int]) -> Answer:
        """{after} → {allocations: [{container, tenant, address, egress, link}], more}: by container id, at most 200."""
        nets = self.networks.containers
        names = sorted(ctr for ctr in nets.known() if ctr > str(message.get("after", "")))
        found = [(ctr, nets.of(ctr)) for ctr in names[:PAGE]]
        rows = [
            {"container": ctr, "tenant": a.tenant, "address": nets.address(a), "egress": a.egress, "link": a.link}
            for ctr, a in found
            if a is not None
        ]
        return {"allocations": rows, "more": len(names) > PAGE}, []

    def egress(self, message: Message, fds: list[int]) -> Answer:
        """{container, tenant, egress} → {}: whether it reaches the world outside, now and at its next starts."""
        ctr, tenant = checked("container", message.get("container")), checked("tenant", message.get("tenant"))
        egress = message.get("egress")
        if not isinstance(egress, bool):
            raise Refused("egress must be true or false")
        self.networks.containers.set_egress(ctr, tenant, egress)
        return {}, []

    def look(self, message: Message, fds: list[int]) -> Answer:
        """{container, tenant} → what the kernel has for a running container: {link, link_up, addresses, default_via,
        host_route_dev, neighbour, rules, pairs, forwarding, uplinks, uplinks_forward, masquerade, filter_drops},
        [datagram socket, stream socket] made in its namespace, for trying what it reaches.
        """
        ctr = checked("container", message.get("container"))
        meta = machines.read_meta(self.config, ctr)
        found = self.networks.containers.of(ctr)
        if not meta or not same_process(meta) or not found or found.tenant != message.get("tenant"):
            raise Refused(f"container {ctr} has no network now", "absent")
        nets, link, address = self.networks.containers, found.link or "", str(self.networks.containers.address(found))
        try:
            uplinks = surroundings.uplinks()
        except RuntimeError:
            uplinks = []
        neighbours = surroundings.ask("-4", "neigh", "show", "to", address, "dev", link) if nets.index(link) else []
        table = _nft("list", "table", "inet", nets.table)
        seen: dict[str, Any] = {
            "link": link,
            "link_up": _read(f"/sys/class/net/{link}/operstate") == "up",
            "host_route_dev": next((r.get("dev") for r in surroundings.ask("-4", "route", "show", address)), None),
            "neighbour": next((n.get("lladdr") for n in neighbours), None),
            "rules": table is not None,
            "pairs": table is not None and nets.may_meet(found, table),
            "forwarding": _read(f"/proc/sys/net/ipv4/conf/{link}/forwarding") == "1",
            "uplinks": uplinks,
            "uplinks_forward": all(_read(f"/proc/sys/net/ipv4/conf/{u}/forwarding") == "1" for u in uplinks),
            "masquerade": table is not None and "masquerade" in json.dumps(table),
            "filter_drops": _filter_drops(),
        }
        namespace = os.open(f"/proc/{meta['pid']}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        kernel.setns(namespace, kernel.CLONE_NEWNET)  # this process serves one request, and ends
        os.close(namespace)
        seen["addresses"] = surroundings.host_addresses("eth0")
        seen["default_via"] = next((r.get("gateway") for r in surroundings.ask("-4", "route", "show", "default")), None)
        flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        socks = [socket.socket(socket.AF_INET, kind | flags) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)]
        return seen, [sock.detach() for sock in socks]


def _read(path: str) -> str | None:
    with contextlib.suppress(OSError):
        return Path(path).read_text().strip()
    return None


def _nft(*command: str) -> dict[str, Any] | None:
    """None where what was asked for is not there."""
    done = programs.run("nft", "-j", *command)
    return json.loads(done.out) if done.code == 0 else None


def _filter_drops() -> str | None:
    """The name of somebody else's forward chain that drops by default (Docker's way), which our accept can't undo."""
    chains = _nft("list", "chains") or {"nftables": []}
    for entry in chains["nftables"]:
        chain = entry.get("chain", {})
        if chain.get("hook") == "forward" and chain.get("policy") == "drop":
            return f"{chain['family']} {chain['table']} {chain['name']}"
    return None


TABLE: dict[str, Callable[[Wires, Message, list[int]], Answer]] = {
    "network": Wires.network,
    "allocations": Wires.allocations,
    "egress": Wires.egress,
    "look": Wires.look,
}
