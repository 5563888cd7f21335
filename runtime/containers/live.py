"""One container that runs on this node: its init is watched, and spoken to over a link that is made anew when lost.

Not here: starting and stopping it (`node`), and what becomes of its record (the pool's).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable

from quilt_fn.errors import QuiltError
from runtime.containers.ends import MemoryKills, count_in
from runtime.containers.link import InitLink

log = logging.getLogger(__name__)

REJOIN_PAUSE_S = 0.2
EVENTS_BYTES = 1024


class Live:
    """See runtime.containers.api.LiveContainer. Takes the descriptors over; `close` gives them back, and ends nothing.

    `on_gone` is called once, when init has ended. `rejoin` answers a new connection to it; it is asked when the link
    was lost while init goes on, which happens when init hangs up on a message that it can't read.
    """

    def __init__(
        self, container_id: str, tenant_id: str, pid: int, address: str | None, control: int, pidfd: int, events: int,
        rejoin: Callable[[], Awaitable[socket.socket]], on_gone: Callable[[Live], None],
    ) -> None:  # fmt: skip
        self.container_id = container_id
        self.tenant_id = tenant_id
        self.pid = pid
        self.address = address
        self.started_at = time.time()
        self.memory = MemoryKills(self._memory_kills)
        self.link: InitLink | None = None
        self.on_main_exit: Callable[[int], None] = lambda _code: None
        self._pidfd = pidfd
        self._events = events
        self._rejoin = rejoin
        self._on_gone = on_gone
        self._ended = asyncio.Event()
        self._rejoining: asyncio.Task[None] | None = None
        self._frozen = False
        self._connect(socket.socket(fileno=control))
        asyncio.get_running_loop().add_reader(pidfd, self._init_ended)

    def _connect(self, sock: socket.socket) -> None:
        link = self.link = InitLink(sock)
        link.frozen = self._frozen
        link.on_lost = self._lost
        link.on_main_exit = lambda code: self.on_main_exit(code)

    def froze(self, frozen: bool) -> None:
        """To be told when it is paused and resumed."""
        self._frozen = frozen
        if self.link is not None:
            self.link.frozen = frozen

    async def ended(self, timeout_s: float) -> bool:
        """Whether init ends within that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        return self._ended.is_set()

    def _memory_kills(self) -> int | None:
        with contextlib.suppress(OSError):  # the cgroup is gone, or this is closed
            return count_in(os.pread(self._events, EVENTS_BYTES, 0))
        return None

    def _init_ended(self) -> None:
        if not self._ended.is_set():
            asyncio.get_running_loop().remove_reader(self._pidfd)
            self._ended.set()
            self._on_gone(self)

    def _lost(self) -> None:
        self.link = None
        if not self._ended.is_set() and self._rejoining is None:
            self._rejoining = asyncio.create_task(self._join_again(), name=f"rejoin {self.container_id}")

    async def _join_again(self) -> None:
        """Until it is connected, or init has ended (a lost link is mostly the first sign of that)."""
        try:
            while not await self.ended(REJOIN_PAUSE_S):
                try:
                    sock = await self._rejoin()
                except QuiltError as error:
                    log.info("container %s: %s", self.container_id, error.message)
                    continue
                self._connect(sock)
                await self._catch_up()
                return
        finally:
            self._rejoining = None

    async def _catch_up(self) -> None:
        """The command may have ended while nobody was connected."""
        if self.link is None:
            return
        try:
            seen = await self.link.status()
        except QuiltError as error:
            log.info("container %s: %s", self.container_id, error.message)
            return
        if seen.main_exit is not None:
            self.on_main_exit(seen.main_exit)

    async def close(self) -> None:
        """Let go of it: nothing is ended. Idempotent."""
        if not self._ended.is_set():
            asyncio.get_running_loop().remove_reader(self._pidfd)
            self._ended.set()
        if self._rejoining is not None:
            self._rejoining.cancel()
            await asyncio.gather(self._rejoining, return_exceptions=True)
        if self.link is not None:
            self.link.close()
            self.link = None
        for fd in (self._pidfd, self._events):
            if fd >= 0:
                os.close(fd)
        self._pidfd = self._events = -1
