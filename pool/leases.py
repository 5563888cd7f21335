"""This node process's claim on its whole pool: one heartbeat for each incarnation, renewed each second.

Not here: what happens to the work of a node that has gone. Nothing is judged lapsed while Redis is away, nor before
this process has itself renewed for long enough to know that the others could have.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from pool import keys_in_redis as keys
from pool import scripts
from pool.redis_link import RedisLink
from quilt_fn.errors import PlatformHeld, RegistryUnavailable

log = logging.getLogger(__name__)

RENEW_EVERY_S = 1.0
LAPSED_AFTER_S = 10.0


class Lease:
    """`incarnation` is 0 until `take`; it fences everything that this process decides."""

    def __init__(self, link: RedisLink, node_id: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._link = link
        self._node_id = node_id
        self._monotonic = monotonic
        self._renewing_since: float | None = None
        self.incarnation = 0
        self.lost = False
        """A newer incarnation of this node has taken the lease: this process decides nothing any more."""

    async def take(self) -> int:
        """A new incarnation. Raises RegistryUnavailable."""
        found = await self._link.script(scripts.TAKE_LEASE, [keys.leases(), keys.incarnations()], [self._node_id])
        self.incarnation = int(found)
        self.lost = False
        self._renewing_since = self._monotonic()
        return self.incarnation

    async def renew(self) -> None:
        """One heartbeat. Raises RegistryUnavailable, and PlatformHeld where a newer incarnation holds the lease."""
        try:
            holder = await self._link.script(
                scripts.RENEW_LEASE, [keys.leases()], [self._node_id, str(self.incarnation)]
            )
        except RegistryUnavailable:
            self._renewing_since = None
            raise
        if int(holder) != self.incarnation:
            self.lost = True
            raise PlatformHeld(f"node {self._node_id} is held by a newer process (incarnation {int(holder)})")
        if self._renewing_since is None:
            self._renewing_since = self._monotonic()

    async def lapsed(self, after_s: float = LAPSED_AFTER_S) -> list[str]:
        """Nodes whose lease has not been renewed for `after_s`; none while that can't be known."""
        if self._renewing_since is None or self._monotonic() - self._renewing_since < after_s:
            return []
        try:
            found = await self._link.script(scripts.LAPSED_LEASES, [keys.leases()], [str(int(after_s * 1000))])
        except RegistryUnavailable:
            self._renewing_since = None
            return []
        return [node.decode() for node in found if node.decode() != self._node_id]

    async def drop(self) -> None:
        """Give the lease back where it is still ours."""
        await self._link.script(scripts.DROP_LEASE, [keys.leases()], [self._node_id, str(self.incarnation)])

    async def keep(self) -> None:
        """Renew each second until cancelled, or until a newer incarnation has the lease."""
        while not self.lost:
            await asyncio.sleep(RENEW_EVERY_S)
            try:
                await self.renew()
            except RegistryUnavailable as error:
                log.debug("heartbeat: %s", error)
            except PlatformHeld as error:
                log.error("%s", error)
