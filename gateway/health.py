"""The probes of `GET /api/<concern>/health`: what each concern needs to work, asked for when somebody asks.

Not here: `GET /health`, which says that the process answers (`gateway.system`).
"""

from __future__ import annotations

from gateway.context import Ask
from gateway.route import Probe
from quilt_fn.errors import QuiltError


async def redis(ask: Ask) -> str | None:
    """Whether Redis answers, by a small read of the tenant's: what its link last saw may be old."""
    try:
        await ask.platform.operations.list(ask.tenant_id, None, 1, None)
    except QuiltError as error:
        return error.message
    return None


async def spawner(ask: Ask) -> str | None:
    return await _feature(ask, "spawner")


async def bridge(ask: Ask) -> str | None:
    """The network of containers."""
    return await _feature(ask, "network")


async def disk(ask: Ask) -> str | None:
    """Room for what is new."""
    return await _feature(ask, "disk")


async def _feature(ask: Ask, name: str) -> str | None:
    found = (await ask.platform.system())["features"][name]
    return None if found["available"] else str(found["reason"])


async def streams(ask: Ask) -> str | None:
    """Whether this tenant could listen to events now."""
    try:
        ask.platform.events.listen(ask.tenant_id, {}).close()
    except QuiltError as error:
        return error.message
    return None


def all_of(*probes: Probe) -> Probe:
    """The reasons of all that fail; None where none does."""

    async def probe(ask: Ask) -> str | None:
        reasons = [reason for each in probes if (reason := await each(ask)) is not None]
        return "; ".join(reasons) or None

    return probe
