"""rtnetlink, as much of it as a container's network takes: links, addresses, routes, neighbours. One call each.

A call costs some ten microseconds where the `ip` program costs two milliseconds, and this folder may import nothing.
Not here: which links there are (`attachments`), and nftables, which is asked seldom and by its own program.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from types import TracebackType

from runtime.spawner import kernel

_NEWLINK, _DELLINK, _SETLINK, _NEWADDR, _NEWROUTE, _DELROUTE, _NEWNEIGH = 16, 17, 19, 20, 24, 25, 28
_REQUEST, _ACK, _REPLACE, _EXCL, _CREATE = 0x1, 0x4, 0x100, 0x200, 0x400
_ERROR = 2
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_GROUP, _IFLA_NET_NS_FD = 1, 3, 18, 20, 27, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC = 1, 4, 5, 7
_TABLE_MAIN, _PROTO_STATIC, _SCOPE_LINK, _UNICAST, _UNREACHABLE, _ONLINK = 254, 4, 253, 1, 7, 4
_PERMANENT = 0x80
_UP = 1


class Netlink:
    """A socket to the kernel's routing. With a `namespace`'s descriptor, to that one's; the caller stays where it is.

    Every method raises OSError with the kernel's own reason.
    """

    def __init__(self, namespace: int | None = None) -> None:
        if namespace is None:
            self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
            return
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            kernel.setns(namespace, kernel.CLONE_NEWNET)
            try:
                self._sock = socket.socket(
                    socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
                )
            finally:
                kernel.setns(here, kernel.CLONE_NEWNET)
        finally:
            os.close(here)

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._sock.close()

    def add_bridge(self, name: str, alias: str) -> None:
        """A bridge that is up. `alias` is a free text that /sys shows."""
        info = _attr(_IFLA_LINKINFO, _attr(_INFO_KIND, b"bridge"))
        body = _link(up=True) + _text(_IFLA_IFNAME, name) + info
        self._ask(_NEWLINK, _CREATE | _EXCL, body, f"add bridge {name}")
        self._ask(_SETLINK, 0, _link(socket.if_nametoindex(name)) + _text(_IFLA_IFALIAS, alias), f"name {name}")

    def add_veth(self, name: str, mac: bytes, namespace: int, inner_index: int, inner_mac: bytes) -> None:
        """A pair: `name` here, which is up, and `eth0` of number `inner_index` in the namespace, which is not yet."""
        inner = _link(inner_index) + _text(_IFLA_IFNAME, "eth0") + _attr(_IFLA_ADDRESS, inner_mac)
        inner += _attr(_IFLA_NET_NS_FD, struct.pack("=I", namespace))
        info = _attr(_INFO_KIND, b"veth") + _attr(_INFO_DATA, _attr(_VETH_PEER, inner))
        body = _link(up=True) + _text(_IFLA_IFNAME, name) + _attr(_IFLA_ADDRESS, mac) + _attr(_IFLA_LINKINFO, info)
        self._ask(_NEWLINK, _CREATE | _EXCL, body, f"add veth {name}")

    def set_up(self, index: int) -> None:
        self._ask(_SETLINK, 0, _link(index, up=True), f"set link {index} up")

    def set_group(self, index: int, group: int) -> None:
        self._ask(_SETLINK, 0, _link(index) + _attr(_IFLA_GROUP, struct.pack("=I", group)), f"set group of {index}")

    def delete_link(self, index: int) -> None:
        """A veth's other end goes with it, and so do addresses, routes and neighbours of both."""
        self._ask(_DELLINK, 0, _link(index), f"delete link {index}")

    def add_address(self, index: int, address: str) -> None:
        packed = socket.inet_aton(address)
        body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, index) + _attr(1, packed) + _attr(2, packed)
        self._ask(_NEWADDR, _CREATE | _REPLACE, body, f"add address {address}")

    def route_to(self, index: int, address: str, source: str | None = None) -> None:
        """`address` lies directly behind the link; with `source`, this machine speaks to it from there."""
        body = _route(32, _SCOPE_LINK, _UNICAST) + _attr(_RTA_DST, socket.inet_aton(address))
        body += _attr(_RTA_OIF, struct.pack("=i", index))
        if source is not None:
            body += _attr(_RTA_PREFSRC, socket.inet_aton(source))
        self._ask(_NEWROUTE, _CREATE | _REPLACE, body, f"add route to {address}")

    def route_default(self, index: int, gateway: str) -> None:
        body = _route(0, 0, _UNICAST, _ONLINK) + _attr(_RTA_GATEWAY, socket.inet_aton(gateway))
        self._ask(_NEWROUTE, _CREATE | _REPLACE, body + _attr(_RTA_OIF, struct.pack("=i", index)), "add default route")

    def route_nowhere(self, network: str, prefix: int) -> None:
        """What lies in `network` and has no route of its own is unreachable, and the network is seen to be taken."""
        body = _route(prefix, 0, _UNREACHABLE) + _attr(_RTA_DST, socket.inet_aton(network))
        self._ask(_NEWROUTE, _CREATE | _REPLACE, body, f"reserve {network}/{prefix}")

    def unroute(self, network: str, prefix: int) -> None:
        """Take back `route_nowhere`. Idempotent."""
        body = _route(prefix, 0, _UNREACHABLE) + _attr(_RTA_DST, socket.inet_aton(network))
        with contextlib.suppress(ProcessLookupError):  # the kernel's word for a route that is not there
            self._ask(_DELROUTE, 0, body, f"free {network}/{prefix}")

    def add_neighbour(self, index: int, address: str, mac: bytes) -> None:
        """A permanent one: nobody is asked, so nobody can lie, and it does not count towards the table's limit."""
        body = struct.pack("=BxxxiHBB", socket.AF_INET, index, _PERMANENT, 0, 0)
        body += _attr(1, socket.inet_aton(address)) + _attr(2, mac)
        self._ask(_NEWNEIGH, _CREATE | _REPLACE, body, f"add neighbour {address}")

    def _ask(self, kind: int, flags: int, body: bytes, what: str) -> None:
        header = struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | _ACK | flags, 1, 0)
        self._sock.send(header + body)
        answer = self._sock.recv(65536)
        if struct.unpack_from("=H", answer, 4)[0] != _ERROR:
            raise OSError(f"{what}: the kernel's answer is none")
        code = -struct.unpack_from("=i", answer, 16)[0]
        if code:
            raise OSError(code, f"{what}: {os.strerror(code)}")


def _link(index: int = 0, up: bool = False) -> bytes:
    flag = _UP if up else 0
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flag, flag)


def _route(prefix: int, scope: int, kind: int, flags: int = 0) -> bytes:
    return struct.pack("=BBBBBBBBI", socket.AF_INET, prefix, 0, 0, _TABLE_MAIN, _PROTO_STATIC, scope, kind, flags)


def _attr(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + b"\0" * (-length % 4)


def _text(kind: int, value: str) -> bytes:
    return _attr(kind, value.encode() + b"\0")
