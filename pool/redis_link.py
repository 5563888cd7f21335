"""The one seam to Redis: short timeouts, no retries, and every failure of it turned into RegistryUnavailable.

Whether Redis answers is seen from each call and kept in `up`. A write whose answer is lost may have been made: what its
caller is told has failed is undone (`undone_by`). Not here: what is kept there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio as redis_asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError, ResponseError

from pool import scripts
from quilt_fn.errors import QuiltError, RegistryUnavailable

log = logging.getLogger(__name__)

Client = redis_asyncio.Redis

TIMEOUT_S = 5.0
"""Redis itself holds its answers back for two seconds and more while a slow disk syncs its append-only file."""
CONNECT_TIMEOUT_S = 0.5
CONNECTIONS = 32
"""At once; who comes next waits for one. Hundreds that connect in one turn of the loop would run over their 0.5 s."""


def connect(url: str) -> Client:
    """A client for `url` (redis://, rediss://, unix://). Nothing is sent yet."""
    pool = redis_asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=TIMEOUT_S,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )
    return redis_asyncio.Redis.from_pool(pool)


class RedisLink:
    """Runs commands and scripts. `on_change(up)` is called when Redis goes away or comes back."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.up = False
        self.on_change: list[Callable[[bool], None]] = []
        self._scripts: dict[str, AsyncScript] = {}
        self._undos: deque[Callable[[], Awaitable[None]]] = deque()
        self._tidying = asyncio.Lock()

    async def run(self, command: Awaitable[Any]) -> Any:
        """The answer to one command or pipeline. Raises RegistryUnavailable where Redis does not answer."""
        try:
            answer = await command
        except ResponseError as error:
            if str(error).startswith(("LOADING", "MISCONF", "OOM", "READONLY", "CLUSTERDOWN", "MASTERDOWN")):
                self._seen(False)
                raise RegistryUnavailable(f"Redis refuses: {error}", retry_after=1) from error
            raise
        except (TimeoutError, RedisError, OSError) as error:
            self._seen(False)
            raise RegistryUnavailable(
                f"the registry (Redis) does not answer: {error}",
                hint="Functions that are deployed go on being served; try this again when Redis is back.",
                retry_after=1,
            ) from error
        self._seen(True)
        return answer

    async def script(self, text: str, keys: Iterable[str], args: Iterable[Any] = ()) -> Any:
        """Run one script of `pool.scripts`."""
        script = self._scripts.get(text)
        if script is None:
            script = self._scripts[text] = self.client.register_script(text)
        return await self.run(script(keys=list(keys), args=list(args)))

    @asynccontextmanager
    async def undone_by(self, undo: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Around a write. Where its answer is lost, it has failed for its caller. Should Redis have made it, `undo`
        takes it back: before the next write of this kind, and as soon as Redis answers. `undo` must be safe to repeat,
        and where there is nothing to undo; it is no such write itself.
        """
        await self.tidy()
        try:
            yield
        except (RegistryUnavailable, asyncio.CancelledError):
            self._undos.append(undo)
            raise

    async def tidy(self) -> None:
        """Undo what was answered as failed. Raises RegistryUnavailable."""
        if not self._undos and not self._tidying.locked():
            return
        async with self._tidying:
            while self._undos:
                try:
                    await self._undos[0]()
                except RegistryUnavailable:
                    raise
                except (QuiltError, RedisError) as error:  # it would fail again, and hold up all writes behind it
                    log.error("a write that was answered as failed could not be undone: %s", error)
                self._undos.popleft()

    async def wait(self, deadline_s: float) -> None:
        """Return once Redis answers, at a start. Raises RegistryUnavailable after `deadline_s`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        told = False
        while True:
            try:
                await self.run(self.client.ping())
                return
            except RegistryUnavailable as error:
                if loop.time() >= end:
                    error.hint = "The platform needs Redis to start: is it running, and does QUILT_REDIS_URL name it?"
                    raise
                if not told:
                    log.warning("%s; waiting for it, %g s at most", error.message, deadline_s)
                    told = True
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        await self.client.aclose()

    def _seen(self, up: bool) -> None:
        if up != self.up:
            self.up = up
            for callback in self.on_change:
                callback(up)


def all_scripts() -> dict[str, str]:
    """Every script by its name, for the tests and the docs."""
    return {name: text for name, text in vars(scripts).items() if name.isupper() and isinstance(text, str)}
