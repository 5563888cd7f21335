"""What network this machine has by itself: addresses, routes, uplinks; and which subnets are free beside them.

Not here: what is made of it (`networks`, `attachments`). Asked at the start only, by the `ip` and `nft` programs.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
from collections.abc import Iterable
from pathlib import Path

from runtime.spawner import programs

Network = ipaddress.IPv4Network


def nft(rules: str) -> None:
    """Carry out `rules` in one transaction. Raises ProgramFailed."""
    programs.checked("nft", "-f", "-", given=rules.encode())


def drop_table(name: str) -> None:
    """Idempotent."""
    nft(f"table inet {name}\ndelete table inet {name}\n")


def uplinks() -> list[str]:
    """The links of the default routes. Raises RuntimeError where there is none."""
    found = [str(route["dev"]) for route in ask("-4", "route", "show", "default") if "dev" in route]
    if not found:
        raise RuntimeError("this machine has no default route")
    return found


def host_addresses(link: str | None = None) -> list[str]:
    """Of every link, and loopback's; or of one."""
    if link is not None:
        return _addresses("dev", link)
    return list(dict.fromkeys([*_addresses(), "127.0.0.1"]))


def _addresses(*which: str) -> list[str]:
    found = []
    for link in ask("-4", "addr", "show", *which):
        infos = link.get("addr_info")
        for info in infos if isinstance(infos, list) else []:
            found.append(str(info["local"]))
    return found


def subnet_of(link: str) -> Network | None:
    """The network of a link's first address; None where there is no such link, or it has none."""
    if not Path(f"/sys/class/net/{link}").exists():
        return None
    for found in ask("-4", "addr", "show", "dev", link):
        infos = found.get("addr_info")
        for info in infos if isinstance(infos, list) else []:
            network = ipaddress.ip_network(f"{info['local']}/{info['prefixlen']}", strict=False)
            return network if isinstance(network, Network) else None
    return None


def first_free(candidates: Iterable[Network]) -> Network | None:
    """The first that overlaps no address and no route of this machine."""
    taken = [Network(f"{address}/32") for address in host_addresses()]
    for route in ask("-4", "route", "show", "table", "all"):
        with contextlib.suppress(ValueError):
            network = ipaddress.ip_network(str(route.get("dst", "")), strict=False)
            if network.prefixlen > 0 and isinstance(network, Network):
                taken.append(network)
    return next((c for c in candidates if not any(c.overlaps(t) for t in taken)), None)


def ask(*command: str) -> list[dict[str, object]]:
    """What the `ip` program says. Raises ProgramFailed."""
    out = programs.checked("ip", "-json", *command)
    return list(json.loads(out or b"[]"))
