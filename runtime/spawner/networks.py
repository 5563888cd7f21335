"""A pool of network namespaces made ahead: `egress` (a veth on the platform's bridge, NAT) and `none` (loopback only).

Making one takes 0.5 to 50 ms, entering one microseconds, so they wait as bind mounts in the spawner's own mount
namespace and go with it. A namespace is used once. Ports of the bridge are isolated from each other; what a container
may reach is decided by one nftables table: not this host, not 169.254.0.0/16, its name servers, and the rest of the
world by NAT.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import subprocess
from pathlib import Path

from runtime.spawner import kernel
from runtime.spawner.images import nameservers
from runtime.spawner.names import Config
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

    def prepare(self) -> None:
        """Make the bridge and the rules. Leaves `reason` where this machine can't.

        A bridge that is there is our last spawner's, which was killed: containers that run on are connected to it.
        """
        for kind in KINDS:
            (self.folder / kind).mkdir(parents=True, exist_ok=True)
        try:
            self.subnet = _subnet_of(self.bridge)
            if self.subnet is None:
                self.teardown()
                self.subnet = _free_subnet(int(self.tag, 16))
                gateway = f"{self.subnet[1]}/{self.subnet.prefixlen}"
                _ip(f"link add {self.bridge} type bridge", f"addr add {gateway} dev {self.bridge}",
                    f"link set {self.bridge} up")  # fmt: skip
            for device in (self.bridge, *_uplinks()):
                Path(f"/proc/sys/net/ipv4/conf/{device}/forwarding").write_text("1")
            Path(f"/proc/sys/net/ipv6/conf/{self.bridge}/disable_ipv6").write_text("1")
            _nft(self._rules())
        except (OSError, subprocess.CalledProcessError, FileNotFoundError, RuntimeError) as error:
            text = getattr(error, "stderr", b"") or b""
            self.reason = f"no egress network: {error} {text.decode(errors='replace').strip()}".strip()
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
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
elements = {{ {", ".join(_host_addresses())} }}
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
        if (
            subprocess.run(["nft", "list", "table", "inet", self.table], capture_output=True, check=False).returncode
            == 0
        ):
            _nft(f"delete table inet {self.table}")
        # A namespace's own end goes only when the kernel gets round to it; the end on this side takes it along at once.
        for link in (*Path("/sys/class/net").glob(f"q{self.tag}*"), Path("/sys/class/net") / self.bridge):
            if link.exists():
                subprocess.run(["ip", "link", "del", link.name], check=False, capture_output=True)
                if link.exists():
                    raise RuntimeError(f"the network link {link.name} can't be deleted")

    def kind(self, asked: str) -> str:
        """`egress` falls back to `none` where this machine has no egress; doctor and system info say so."""
        return "none" if asked == "none" or self.reason else "egress"

    def take(self, asked: str) -> tuple[int, str | None]:
        """A descriptor of a network namespace that nobody has used, and its address; made now where none waits."""
        kind = self.kind(asked)
        with locked(self.lock):
            for path in sorted((self.folder / kind).iterdir()):
                fd = _open_ready(path)
                if fd is not None:
                    kernel.umount(str(path))
                    path.unlink()
                    return fd, path.name.split("_")[0] or None
        return self._make(kind)

    def refill(self) -> None:
        """Make as many as are missing from the pool. The caller is a child of its own."""
        kinds = ("none",) if self.reason else KINDS
        for kind in kinds:
            while len(list((self.folder / kind).iterdir())) < self.wanted:
                fd, address = self._make(kind)
                path = self.folder / kind / f"{address or ''}_{os.getpid()}-{os.urandom(4).hex()}"
                path.touch()
                kernel.mount(f"/proc/self/fd/{fd}", str(path), None, kernel.MS_BIND)
                os.close(fd)

    def _make(self, kind: str) -> tuple[int, str | None]:
        fd = _new_namespace()
        address = None
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
            address = str(self.subnet[index])
            _in_namespace(
                fd,
                f"addr add {address}/{self.subnet.prefixlen} dev eth0\nlink set eth0 up\n"
                f"route add default via {self.subnet[1]}\n",
            )
        return fd, address


def _open_ready(path: Path) -> int | None:
    """The namespace bound at `path`; None where the bind is not made yet."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if os.fstat(fd).st_dev != os.stat("/proc/self/ns/net").st_dev:
        os.close(fd)
        return None
    return fd


def _new_namespace() -> int:
    """A new network namespace with its loopback up and low ports open to everybody in it."""
    read, write = os.pipe()
    hold_r, hold_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(hold_w)
            kernel.unshare(kernel.CLONE_NEWNET)
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")
            os.write(write, b"1")
            os.read(hold_r, 1)
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    os.close(hold_r)
    try:
        if not os.read(read, 1):
            raise RuntimeError("a network namespace could not be made")
        return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(read)
        os.close(hold_w)
        os.waitpid(pid, 0)


def _in_namespace(fd: int, batch: str) -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            kernel.setns(fd, kernel.CLONE_NEWNET)
            subprocess.run(["ip", "-batch", "-"], input=batch.encode(), check=True)
            code = 0
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        raise RuntimeError("the container's side of the network could not be set up")


def _ip(*commands: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands).encode(), check=True, capture_output=True)


def _nft(rules: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True, capture_output=True)


def _json(*command: str) -> list[dict[str, object]]:
    out = subprocess.run(["ip", "-json", *command], check=True, capture_output=True).stdout
    return list(json.loads(out or b"[]"))


def _uplinks() -> list[str]:
    found = [str(route["dev"]) for route in _json("-4", "route", "show", "default") if "dev" in route]
    if not found:
        raise RuntimeError("this machine has no default route")
    return found


def _host_addresses() -> list[str]:
    found = []
    for link in _json("-4", "addr", "show"):
        infos = link.get("addr_info")
        for info in infos if isinstance(infos, list) else []:
            found.append(str(info["local"]))
    return list(dict.fromkeys([*found, "127.0.0.1"]))


def _subnet_of(bridge: str) -> ipaddress.IPv4Network | None:
    if not Path(f"/sys/class/net/{bridge}").exists():
        return None
    for link in _json("-4", "addr", "show", "dev", bridge):
        infos = link.get("addr_info")
        for info in infos if isinstance(infos, list) else []:
            network = ipaddress.ip_network(f"{info['local']}/{info['prefixlen']}", strict=False)
            return network if isinstance(network, ipaddress.IPv4Network) else None
    return None


def _free_subnet(seed: int) -> ipaddress.IPv4Network:
    """The first of the 1,024 /22 networks of 10.64.0.0/12 that overlaps no route or address here, from `seed` on."""
    taken = [ipaddress.ip_network(f"{a}/32") for a in _host_addresses()]
    for route in _json("-4", "route", "show", "table", "all"):
        with contextlib.suppress(ValueError):
            network = ipaddress.ip_network(str(route.get("dst", "")), strict=False)
            if network.prefixlen > 0 and isinstance(network, ipaddress.IPv4Network):
                taken.append(network)
    pool = list(ipaddress.ip_network("10.64.0.0/12").subnets(new_prefix=22))
    for step in range(len(pool)):
        candidate = pool[(seed + step) % len(pool)]
        if isinstance(candidate, ipaddress.IPv4Network) and not any(candidate.overlaps(t) for t in taken):
            return candidate
    raise RuntimeError("no free network in 10.64.0.0/12")
