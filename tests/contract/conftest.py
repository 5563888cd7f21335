"""Redis for the contract tests: the same suite on fakeredis and on a real redis-server of its own.

Not here: any key that a test reads; each test gets an empty Redis.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from pool import redis_link
from pool.platform import Platform
from pool.redis_link import Client, RedisLink, connect
from quilt_fn.settings import Settings
from tests.fakes.runtime import FakeRuntime
from tests.slowness import patience

KINDS = [
    "fake",
    pytest.param(
        "real",
        marks=pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server on this machine"),
    ),
]


class RedisServer:
    """One redis-server on a unix socket, which a test may stop and start again."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            "redis-server", "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self._folder),
            "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--loglevel", "warning",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        link = RedisLink(connect(self.url))
        try:
            await link.wait(patience(10))
        finally:
            await link.close()

    async def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)


class RedisHandle:
    """What a test gets: clients of one Redis, and a way to take it away."""

    def __init__(self, server: RedisServer | None) -> None:
        self.server = server
        self._fake = fakeredis.FakeServer()

    def client(self) -> Client:
        if self.server is not None:
            return connect(self.server.url)
        return fakeredis.FakeAsyncRedis(server=self._fake)

    async def go_away(self) -> None:
        if self.server is not None:
            await self.server.stop()
        else:
            self._fake.connected = False

    async def come_back(self) -> None:
        if self.server is not None:
            await self.server.start()
        else:
            self._fake.connected = True


@pytest.fixture(autouse=True)
def patient_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link is as patient as the machine is slow."""
    for limit in ("TIMEOUT_S", "CONNECT_TIMEOUT_S"):
        monkeypatch.setattr(redis_link, limit, patience(getattr(redis_link, limit)))


@pytest.fixture(params=KINDS)
async def redis(request: pytest.FixtureRequest) -> AsyncIterator[RedisHandle]:
    if request.param == "fake":
        yield RedisHandle(None)
        return
    with tempfile.TemporaryDirectory(prefix="q-") as folder:  # a unix socket's path must stay short
        server = RedisServer(Path(folder))
        await server.start()
        try:
            yield RedisHandle(server)
        finally:
            await server.stop()


@pytest.fixture
async def link(redis: RedisHandle) -> AsyncIterator[RedisLink]:
    link = RedisLink(redis.client())
    yield link
    await link.close()


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


MakePlatform = Callable[..., Awaitable[Platform]]


@pytest.fixture
async def make_platform(redis: RedisHandle, tmp_path: Path) -> AsyncIterator[MakePlatform]:
    """Started platforms on one Redis and one state folder; closed at the end, newest first."""
    made: list[Platform] = []

    async def make(runtime: FakeRuntime, **settings: Any) -> Platform:
        values = {"state_dir": str(tmp_path), "shutdown_seconds": 0.2} | settings
        platform = Platform(
            Settings(**values), "", runtime, "node_1", redis=redis.client(), bootstrap_key="quilt_sk_test"
        )
        await platform.start()
        made.append(platform)
        return platform

    yield make
    for platform in reversed(made):
        await platform.close()


@pytest.fixture
async def platform(make_platform: MakePlatform, runtime: FakeRuntime) -> Platform:
    return await make_platform(runtime)
