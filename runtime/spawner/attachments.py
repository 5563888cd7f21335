"""Containers' networks: a veth for each, routed by this machine, an address that is kept, and one table of rules.

No two containers share a link: what one sends arrives at this machine and nowhere else, so there is no ARP, no IPv6
and no MAC address by which it could stand in for another. Who may speak to whom is decided by the group of a veth's
outer end, which says tenant and egress: rules know pairs of groups, so that an attach touches no rules (but a tenant's
first). The bridge `quilt0` has no ports: it holds the gateway's address, and shows that the subnet is taken.

On disk, below `network/`: `place.json` (bridge and subnet), `<container>.json` (number, tenant, egress, link), and
`numbers/<n>`, which names the container that has it. A number is a container's from its first start to its delete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import json
import os
import socket
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.spawner import namespaces, surroundings, tenants
from runtime.spawner.names import Config, write_json
from runtime.spawner.netlink import Netlink
from runtime.spawner.protocol import Refused
from runtime.spawner.tenants import locked

INNER = 2
"""The number of `eth0` in every namespace."""
GATEWAY_MAC = bytes.fromhex("02514c540001")
GROUPS_FROM = 1 << 20
"""Link groups below are left to this machine's administrator. The lowest bit says egress."""
PLACES = [("quilt0", "10.42.0.0/16")] + [(f"quilt{i}", f"10.{42 + i}.0.0/16") for i in range(2, 22)]
"""Bridges and subnets to choose from. 10.43.0.0/16 is left out: k3s serves from it, without a route that shows it."""
SETTINGS = {"ipv4/ping_group_range": "0 2147483647", "ipv6/conf/default/disable_ipv6": "1"}
"""Of each namespace: ping without a capability, and no IPv6 but on loopback."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A container's place in the network. `link` is its outer end; None where it is not attached now."""

    number: int
    tenant: str
    egress: bool = True
    link: str | None = None


class Attachments:
    """The containers' network of one platform. `reason` says why there is none, `egress_reason` why nothing leaves."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.state = config.state / "network"
        self.folder = config.mounts / "netns" / "bridge"
        self.admitted = config.mounts / "netns" / "tenants"
        self.lock = config.run / "attachments.lock"
        self.pool_lock = config.run / "bridge.lock"
        self.prefix = f"qn{config.platform[:8]}"
        self.alias = f"quilt {config.platform}"
        self.table = f"quilt_{config.platform}_containers"
        self.bridge = ""
        self.subnet: ipaddress.IPv4Network | None = None
        self.reason: str | None = None
        self.egress_reason: str | None = None

    @property
    def gateway(self) -> str:
        """The address by which containers reach this machine, and this machine them."""
        assert self.subnet is not None
        return str(self.subnet[1])

    # --- once in a spawner's life -----------------------------------------------------------------------------------

    def prepare(self, running: Set[str], there: Set[str]) -> None:
        """Make bridge and rules, or take over those of a spawner that was killed; `running` containers stay attached,
        those not `there` any more are forgotten. Leaves `reason` where this machine can't.
        """
        for folder in (self.folder, self.admitted, self.state / "numbers"):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            self._take_place()
            try:
                devices = surroundings.uplinks()
            except RuntimeError as error:
                devices, self.egress_reason = [], f"containers reach nothing outside: {error}"
            for device in (self.bridge, *devices):
                _set(f"ipv4/conf/{device}/forwarding", "1")
            _set(f"ipv6/conf/{self.bridge}/disable_ipv6", "1")
            for ctr in self.known() - there:
                self.forget(ctr)
            for number in (self.state / "numbers").iterdir():
                if number.read_text() not in there:  # claimed by an attach that was killed
                    number.unlink()
            for claim in self.state.glob(".claim.*"):
                self._unclaim(claim.name.removeprefix(".claim."))
            self.sweep(running)
            admitted = {found.tenant for ctr in running if (found := self.of(ctr))}
            surroundings.nft(self._rules(admitted))
            for tenant in admitted:
                (self.admitted / tenant).touch()
        except (OSError, RuntimeError) as error:
            self.reason = f"no containers' network: {error}"

    def _take_place(self) -> None:
        """The bridge of our last spawner, else the place that was had before, else the first that is free."""
        chosen = self.state / "place.json"
        with locked(tenants.CLAIMS / "network.lock"):
            wanted = []
            if chosen.exists():
                place = json.loads(chosen.read_text())
                self.bridge, self.subnet = place["bridge"], ipaddress.IPv4Network(place["subnet"])
                if _alias(self.bridge) == self.alias:
                    return
                wanted.append((place["bridge"], place["subnet"]))
            self.teardown()
            for bridge, subnet in [*wanted, *PLACES]:
                network = ipaddress.IPv4Network(subnet)
                if _alias(bridge) is None and surroundings.first_free([network]):
                    break
            else:
                raise RuntimeError("each of 10.42.0.0/16 and 10.44 to 10.63 overlaps a network of this machine")
            self.bridge, self.subnet = bridge, network
            with Netlink() as netlink:
                netlink.add_bridge(bridge, self.alias)
                netlink.add_address(socket.if_nametoindex(bridge), self.gateway)
                netlink.route_nowhere(str(network.network_address), network.prefixlen)
            write_json(chosen, {"bridge": bridge, "subnet": subnet})

    def _rules(self, admitted: Set[str]) -> str:
        ours = f'"{self.prefix}*"'
        pairs = ", ".join(pair for tenant in sorted(admitted) for pair in self._pairs(tenant))
        elements = f"elements = {{ {pairs} }}" if pairs else ""
        return f"""table inet {self.table}
delete table inet {self.table}
table inet {self.table} {{
set together {{
type devgroup . devgroup
{elements}
}}
chain source {{ type filter hook prerouting priority raw; policy accept;
iifname {ours} meta nfproto ipv6 drop
iifname {ours} fib saddr . iif oif missing drop
}}
chain input {{ type filter hook input priority -10; policy accept;
iifname {ours} ct state established,related accept
iifname {ours} ip daddr {self.gateway} meta l4proto {{ tcp, udp }} th dport 53 accept
iifname {ours} ip daddr {self.gateway} icmp type echo-request accept
iifname {ours} drop
}}
chain forward {{ type filter hook forward priority -10; policy accept;
iifname {ours} iifgroup . oifgroup @together accept
ip daddr {self.subnet} iifname {ours} reject with icmp host-unreachable
iifname {ours} iifgroup & 1 == 0 reject with icmp admin-prohibited
iifname {ours} ip daddr 169.254.0.0/16 reject
iifname {ours} accept
oifname {ours} ct state established,related accept
oifname {ours} drop
}}
chain nat {{ type nat hook postrouting priority 100; policy accept;
ip saddr {self.subnet} ip daddr != {self.subnet} masquerade
}}
}}"""

    def _group(self, tenant: str, egress: bool) -> int:
        slot = (tenants.base_id(self.config, tenant) - tenants.BASE_ID) // tenants.RANGE
        return GROUPS_FROM + slot * 2 + egress

    def _pairs(self, tenant: str) -> list[str]:
        groups = [self._group(tenant, egress) for egress in (False, True)]
        return [f"{one} . {other}" for one in groups for other in groups]

    def teardown(self) -> None:
        """Remove every link and the rules of this platform. What is on disk stays. Idempotent."""
        surroundings.drop_table(self.table)
        with Netlink() as netlink:
            for path in Path("/sys/class/net").iterdir():
                if path.name.startswith(self.prefix) or _alias(path.name) == self.alias:
                    _delete(netlink, path.name)
            if self.subnet is not None:
                netlink.unroute(str(self.subnet.network_address), self.subnet.prefixlen)

    # --- the pool ---------------------------------------------------------------------------------------------------

    def refill(self) -> None:
        """Make as many namespaces as are missing. The caller is a child of its own."""
        while not self.reason and len(list(self.folder.iterdir())) < self.config.netns_pool:
            with locked(self.pool_lock):  # so that `sweep` sees no link that stands nowhere yet
                fd, link = self._make()
                namespaces.keep(fd, self.folder / link)

    def _make(self) -> tuple[int, str]:
        fd = namespaces.make(SETTINGS)
        with Netlink() as netlink:
            name = self._add_veth(netlink, fd)
        _set(f"ipv4/conf/{name}/forwarding", "1")
        _set(f"ipv6/conf/{name}/disable_ipv6", "1")
        with Netlink(fd) as netlink:
            netlink.set_up(INNER)
            netlink.route_to(INNER, self.gateway)
            netlink.route_default(INNER, self.gateway)
            netlink.add_neighbour(INNER, self.gateway, GATEWAY_MAC)
        return fd, name

    def _add_veth(self, netlink: Netlink, namespace: int) -> str:
        """Its name: made up, and made up again in the rare case that it is there."""
        while True:
            name = self.prefix + os.urandom(3).hex()[:5]
            try:
                netlink.add_veth(name, GATEWAY_MAC, namespace, INNER, _mac(name))
            except FileExistsError:
                continue
            return name

    # --- for each container -----------------------------------------------------------------------------------------

    def attach(self, ctr: str, tenant: str) -> tuple[int, str]:
        """(a namespace to enter, the container's address), in force when this returns. One that was attached before
        has a new namespace and the same address. Raises Refused (failed) where this machine has no network for it.
        """
        if self.reason or self.subnet is None:
            raise Refused(f"{self.reason}; `network: none` works", "failed")
        self.release(ctr)
        found = self.of(ctr) or Attachment(self._number(ctr), tenant)
        if found.tenant != tenant:
            raise Refused(f"container {ctr} is another tenant's")
        self._admit(tenant)
        fd, link = namespaces.take(self.folder, self.pool_lock.with_suffix(".take")) or self._make()
        self._note(ctr, Attachment(found.number, tenant, found.egress, link))
        address = str(self.subnet[found.number])
        with Netlink(fd) as inside:
            inside.add_address(INNER, address)
        with Netlink() as netlink:
            index = socket.if_nametoindex(link)
            netlink.set_group(index, self._group(tenant, found.egress))
            netlink.add_neighbour(index, address, _mac(link))
            netlink.route_to(index, address, self.gateway)
        return fd, address

    def release(self, ctr: str) -> None:
        """Its link goes, with route and neighbour; the address stays its own. Idempotent."""
        found = self.of(ctr)
        if found and found.link:
            with Netlink() as netlink:
                _delete(netlink, found.link)
            self._note(ctr, Attachment(found.number, found.tenant, found.egress))

    def forget(self, ctr: str) -> None:
        """As `release`, and the address is free again. Idempotent."""
        self.release(ctr)
        found = self.of(ctr)
        if found:
            (self.state / f"{ctr}.json").unlink(missing_ok=True)
            (self.state / "numbers" / str(found.number)).unlink(missing_ok=True)
        self._unclaim(ctr)

    def set_egress(self, ctr: str, tenant: str, egress: bool) -> None:
        """Whether it reaches anything but its tenant's containers: at once where it runs, connections that are open
        included, and from its next start on. Raises Refused.
        """
        found = self.of(ctr) or Attachment(self._number(ctr), tenant)
        if found.tenant != tenant:
            raise Refused(f"there is no container {ctr}", "absent")
        self._note(ctr, Attachment(found.number, tenant, egress, found.link))
        if found.link:
            with Netlink() as netlink:
                netlink.set_group(socket.if_nametoindex(found.link), self._group(tenant, egress))

    def of(self, ctr: str) -> Attachment | None:
        """What is recorded of a container; None where it never had a network."""
        with contextlib.suppress(FileNotFoundError):
            raw: dict[str, Any] = json.loads((self.state / f"{ctr}.json").read_text())
            return Attachment(raw["number"], raw["tenant"], raw["egress"], raw["link"])
        return None

    def address(self, found: Attachment) -> str | None:
        return str(self.subnet[found.number]) if self.subnet else None

    def may_meet(self, found: Attachment, table: dict[str, Any]) -> bool:
        """Whether `table`, as nft tells it, lets the container speak to its tenant's others."""
        sets = [entry["set"] for entry in table["nftables"] if "set" in entry]
        pairs = [tuple(pair["concat"]) for of in sets if of["name"] == "together" for pair in of.get("elem", [])]
        group = self._group(found.tenant, found.egress)
        return (group, group) in {(int(one), int(other)) for one, other in pairs}

    @staticmethod
    def index(link: str) -> int:
        """The link's number; 0 where it is not there."""
        try:
            return socket.if_nametoindex(link)
        except OSError:
            return 0

    def sweep(self, running: Set[str]) -> None:
        """Remove the links that neither wait nor belong to a running container. No attach may be under way."""
        if not self.bridge:
            return
        for ctr in self.known() - running:
            self.release(ctr)
        with locked(self.pool_lock), Netlink() as netlink:
            kept = {found.link for ctr in running if (found := self.of(ctr))}
            kept |= {path.name for path in self.folder.iterdir()}
            for path in Path("/sys/class/net").glob(f"{self.prefix}*"):
                if path.name not in kept:
                    _delete(netlink, path.name)

    def known(self) -> set[str]:
        """The containers that have an address."""
        return {path.stem for path in self.state.glob("ctr_*.json")}

    def _note(self, ctr: str, found: Attachment) -> None:
        write_json(self.state / f"{ctr}.json", {
            "number": found.number, "tenant": found.tenant, "egress": found.egress, "link": found.link,
        })  # fmt: skip
        self._claim(ctr).unlink(missing_ok=True)

    def _number(self, ctr: str) -> int:
        """A number that no other container has: not the lowest, so that an address that was given up rests a while."""
        assert self.subnet is not None
        numbers, last = self.state / "numbers", self.state / "last"
        room = self.subnet.num_addresses - 3
        with locked(self.lock):
            begin = int(last.read_text()) if last.exists() else 1
            # Each file is whole when it gets its name: this process may be killed at any point.
            self._unclaim(ctr)
            claim = self._claim(ctr)
            claim.write_text(ctr)
            for step in range(room):
                number = 2 + (begin - 1 + step) % room
                with contextlib.suppress(FileExistsError):
                    os.link(claim, numbers / str(number))
                    write_json(last, number)
                    return number
            claim.unlink()
        raise Refused(f"no address of {self.subnet} is free", "failed")

    def _claim(self, ctr: str) -> Path:
        """Is there from before the container has a number until that is on its record."""
        return self.state / f".claim.{ctr}"

    def _unclaim(self, ctr: str) -> None:
        """Give up the number that a process claimed which was killed before it was on record. Idempotent."""
        claim = self._claim(ctr)
        if not claim.exists():
            return
        noted = self.of(ctr)
        for number in (self.state / "numbers").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if number.read_text() == ctr and (noted is None or number.name != str(noted.number)):
                    number.unlink()
        claim.unlink()

    def _admit(self, tenant: str) -> None:
        """Let the tenant's containers speak to each other, from its first one on."""
        mark = self.admitted / tenant
        if not mark.exists():
            surroundings.nft(f"add element inet {self.table} together {{ {', '.join(self._pairs(tenant))} }}")
            mark.touch()


def _alias(link: str) -> str | None:
    """None where there is no such link."""
    with contextlib.suppress(OSError):
        return Path(f"/sys/class/net/{link}/ifalias").read_text().strip()
    return None


def _mac(link: str) -> bytes:
    """The container's end's, from the link's name; the same on no two links, for programs that make ids of it."""
    return b"\x02" + hashlib.sha256(link.encode()).digest()[:5]


def _set(name: str, value: str) -> None:
    """A setting below /proc/sys/net; those of IPv6 are not there where the machine has none."""
    path = Path("/proc/sys/net") / name
    if path.exists() or not name.startswith("ipv6/"):
        path.write_text(value)


def _delete(netlink: Netlink, link: str) -> None:
    """Idempotent: the kernel may be taking it away already, with the namespace of its other end."""
    index = Attachments.index(link)
    if not index:
        return
    try:
        netlink.delete_link(index)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
