"""Networks of functions, a pool of them made ahead: `egress` (a veth on the platform's bridge, NAT) and `none`.

A namespace is used once. Ports of the bridge are isolated from each other; what a function may reach is decided by one
nftables table: not this host, not 169.254.0.0/16, its name servers, and the rest of the world by NAT. Containers have a
network of their own (`attachments`), which is filled and prepared with this one.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Set
from pathlib import Path

from runtime.spawner import kernel, namespaces, programs, surroundings
from runtime.spawner.attachments import Attachments
from runtime.spawner.images import nameservers
from runtime.spawner.names import Config
from runtime.spawner.programs import ProgramFailed
from runtime.spawner.tenants import locked

KINDS = ("egress", "none")


class Networks:
    """The networks of one platform. `reason` says why there is no egress, where there is none."""

    def __init__(self, config: Config) -> None:
        self.folder = config.mounts / "netns"
        self.lock = config.run / "netns.lock"
        self.tag = config.platform[:8]
        self.bridge = f"qb{self.tag}"
        self.table = f"quilt_{config.platform}"
        self.wanted = config.netns_pool
        self.subnet: ipaddress.IPv4Network | None = None
        self.reason: str | None = None
        self.containers = Attachments(config)

    def prepare(self, running: Set[str], there: Set[str]) -> None:
        """Make the bridges and the rules; see `Attachments.prepare`. Leaves `reason` where this machine can't.

        A bridge that is there is our last spawner's, which was killed: containers that run on are connected to it.
        """
        for kind in KINDS:
            (self.folder / kind).mkdir(parents=True, exist_ok=True)
        self.containers.prepare(running, there)
        try:
            self.subnet = surroundings.subnet_of(self.bridge)
            if self.subnet is None:
                self.teardown()
                self.subnet = _free_subnet(int(self.tag, 16))
                gateway = f"{self.subnet[1]}/{self.subnet.prefixlen}"
                _ip(f"link add {self.bridge} type bridge", f"addr add {gateway} dev {self.bridge}",
                    f"link set {self.bridge} up")  # fmt: skip
            for device in (self.bridge, *surroundings.uplinks()):
                Path(f"/proc/sys/net/ipv4/conf/{device}/forwarding").write_text("1")
            Path(f"/proc/sys/net/ipv6/conf/{self.bridge}/disable_ipv6").write_text("1")
            surroundings.nft(self._rules())
        except (OSError, RuntimeError) as error:
            self.reason = f"no egress network: {error}"
            with contextlib.suppress(OSError, ProgramFailed):
                self.teardown()

    def _rules(self) -> str:
        allowed = nameservers()
        dns = "".join(
            f"iifname {self.bridge} ip daddr {s} meta l4proto {{ tcp, udp }} th dport 53 accept\n" for s in allowed
        )
        return f"""table inet {self.table}
delete table inet {self.table}
table inet {self.table} {{
set host {{
type ipv4_addr
elements = {{ {", ".join(surroundings.host_addresses())} }}
}}
chain input {{ type filter hook input priority -10; policy accept;
iifname {self.bridge} ct state established,related accept
iifname {self.bridge} drop
}}
chain forward {{ type filter hook forward priority -10; policy accept;
{dns}iifname {self.bridge} ip daddr 169.254.0.0/16 reject
iifname {self.bridge} oifname {self.bridge} drop
iifname {self.bridge} ip daddr @host reject
oifname {self.bridge} ct state established,related accept
oifname {self.bridge} drop
}}
chain nat {{ type nat hook postrouting priority 100; policy accept;
ip saddr {self.subnet} oifname != {self.bridge} masquerade
}}
}}"""

    def teardown(self) -> None:
        """Remove bridge and rules of this platform. Idempotent."""
        surroundings.drop_table(self.table)
        # A namespace's own end goes only when the kernel gets round to it; the end on this side takes it along at once.
        for link in (*Path("/sys/class/net").glob(f"q{self.tag}*"), Path("/sys/class/net") / self.bridge):
            if link.exists():
                programs.run("ip", "link", "del", link.name)
                if link.exists():
                    raise RuntimeError(f"the network link {link.name} can't be deleted")

    def kind(self, asked: str) -> str:
        """`egress` falls back to `none` where this machine has no egress; doctor and system info say so."""
        return "none" if asked == "none" or self.reason else "egress"

    def take(self, asked: str) -> int:
        """A descriptor of a network namespace that nobody has used; made now where none waits."""
        kind = self.kind(asked)
        taken = namespaces.take(self.folder / kind, self.lock)
        return taken[0] if taken else self._make(kind)

    def refill(self) -> None:
        """Make as many as are missing from the pool. The caller is a child of its own."""
        kinds = ("none",) if self.reason else KINDS
        for kind in kinds:
            while len(list((self.folder / kind).iterdir())) < self.wanted:
                path = self.folder / kind / f"{os.getpid()}-{os.urandom(4).hex()}"
                namespaces.keep(self._make(kind), path)
        self.containers.refill()

    def _make(self, kind: str) -> int:
        fd = namespaces.make()
        if kind == "egress":
            assert self.subnet is not None
            with locked(self.lock.with_name("addresses.lock")):
                index, name = next(
                    (i, f"q{self.tag}{i:03x}")
                    for i in range(2, self.subnet.num_addresses - 1)
                    if not Path(f"/sys/class/net/q{self.tag}{i:03x}").exists()
                )
                _ip(f"link add {name} type veth peer name eth0 netns /proc/{os.getpid()}/fd/{fd}",
                    f"link set {name} master {self.bridge}", f"link set {name} up",
                    f"link set {name} type bridge_slave isolated on")  # fmt: skip
            address = f"{self.subnet[index]}/{self.subnet.prefixlen}"
            _in_namespace(
                fd, f"addr add {address} dev eth0\nlink set eth0 up\nroute add default via {self.subnet[1]}\n"
            )
        return fd


def _in_namespace(fd: int, batch: str) -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            kernel.setns(fd, kernel.CLONE_NEWNET)
            programs.checked("ip", "-batch", "-", given=batch.encode())
            code = 0
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        raise RuntimeError("the container's side of the network could not be set up")


def _ip(*commands: str) -> None:
    programs.checked("ip", "-batch", "-", given="\n".join(commands).encode())


def _free_subnet(seed: int) -> ipaddress.IPv4Network:
    """The first of the 1,024 /22 networks of 10.64.0.0/12 that overlaps no route or address here, from `seed` on."""
    pool = list(ipaddress.IPv4Network("10.64.0.0/12").subnets(new_prefix=22))
    start = seed % len(pool)
    found = surroundings.first_free(pool[start:] + pool[:start])
    if found is None:
        raise RuntimeError("no free network in 10.64.0.0/12")
    return found
