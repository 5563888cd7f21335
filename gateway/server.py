"""Sockets: listen, say so, and at the end stop accepting, let what runs finish, close.

Not here: what is served (`gateway.app`), nor who makes the platform (`gateway.node`).
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from gateway.app import INVOKER, build, put_before_router
from pool.api import Platform
from quilt_fn.errors import Conflict, InvalidValue
from quilt_fn.settings import Settings

BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the server can be reached. `port` is the real one, also where 0 was asked for."""

    host: str
    port: int

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@asynccontextmanager
async def listening(platform: Platform, settings: Settings) -> AsyncIterator[Listening]:
    """Serve `platform` on settings.host:port while the block runs.

    At its end: no new connection, idle ones are closed, running requests get settings.shutdown_seconds, streams that
    only follow are ended. Raises Conflict where the port is in use, InvalidValue where the address can't be had.
    """
    app = build(platform, settings)
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=settings.shutdown_seconds)
    await runner.setup()
    try:
        server = runner.server
        assert isinstance(server, web.Server)
        put_before_router(server, app[INVOKER])
        site = web.TCPSite(runner, settings.host, settings.port, backlog=BACKLOG)
        try:
            await site.start()
        except OSError as exc:
            raise _cannot_listen(exc, settings) from exc
        host, port = runner.addresses[0][:2]
        yield Listening(host, port)
    finally:
        await runner.cleanup()


def _cannot_listen(exc: OSError, settings: Settings) -> Conflict | InvalidValue:
    where = f"{settings.host}:{settings.port}"
    if exc.errno == errno.EADDRINUSE:
        return Conflict(f"{where} is in use by another program", hint="QUILT_PORT names another port")
    return InvalidValue(f"cannot listen on {where}: {exc.strerror or exc}", hint="see QUILT_HOST and QUILT_PORT")
