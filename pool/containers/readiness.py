"""Whether a container can be used now: each check is made, none is concluded from its state.

Not here: what is done about it.
"""

from __future__ import annotations

import asyncio
import socket

from pool.containers.entry import ContainerEntry
from quilt_fn.errors import QuiltError
from quilt_fn.model.container import Checks
from quilt_fn.states import ContainerState
from runtime.containers.api import LiveContainer

INIT_TIMEOUT_S = 1.0
NETWORK_TIMEOUT_S = 1.0
PROBE_PORT = 1
"""Nobody listens there (tcpmux), and a refusal is as good an answer as a connection."""


async def checks(entry: ContainerEntry, live: LiveContainer | None, image_valid: bool) -> Checks:
    """All of them at once; at most a second."""
    running = entry.state is ContainerState.RUNNING and live is not None
    address = live.address if running and live is not None else None
    init, network = await asyncio.gather(_init(live if running else None), _network(address))
    return Checks(
        state_running=running,
        init_responsive=init,
        network_configured=None if entry.spec.network == "none" else network,
        image_valid=image_valid,
    )


async def _init(live: LiveContainer | None) -> bool:
    if live is None or live.link is None:
        return False
    try:
        await live.link.status(INIT_TIMEOUT_S)
    except QuiltError:
        return False
    return True


async def _network(address: str | None) -> bool:
    """Whether the address answers this machine: with a connection, or by refusing one."""
    if address is None:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            async with asyncio.timeout(NETWORK_TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(sock, (address, PROBE_PORT))
        except ConnectionRefusedError:
            return True
        except (OSError, TimeoutError):
            return False
    return True
