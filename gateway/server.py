"""Sockets: listen, say so, and at the end stop accepting, let what runs finish, close.

Not here: what is served (`gateway.app`), nor who makes the platform (`gateway.node`).
"""

from __future__ import annotations

import errno
import socket
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


def bind(settings: Settings) -> socket.socket:
    """A socket bound to settings.host:port that does not listen yet, so that a port in use is known early.

    Of a name with several addresses the first IPv4 one. Raises Conflict where the port is in use, InvalidValue where
    the address can't be had.
    """
    try:
        found = socket.getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except BaseException:
            sock.close()
            raise
    except OSError as exc:
        raise _cannot_listen(exc, settings) from exc
    return sock


@asynccontextmanager
async def listening(platform: Platform, settings: Settings, sock: socket.socket) -> AsyncIterator[Listening]:
    """Serve `platform` on `sock` (see `bind`; closed at the end) while the block runs.

    At its end: no new connection, idle ones are closed, running requests get settings.shutdown_seconds, streams that
    only follow are ended.
    """
    app = build(platform, settings)
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=settings.shutdown_seconds)
    await runner.setup()
    try:
        server = runner.server
        assert isinstance(server, web.Server)
        put_before_router(server, app[INVOKER])
        await web.SockSite(runner, sock, backlog=BACKLOG).start()
        host, port = sock.getsockname()[:2]
        yield Listening(host, port)
    finally:
        await runner.cleanup()
        sock.close()


def _cannot_listen(exc: OSError, settings: Settings) -> Conflict | InvalidValue:
    where = f"{settings.host}:{settings.port}"
    if exc.errno == errno.EADDRINUSE:
        return Conflict(f"{where} is in use by another program", hint="QUILT_PORT names another port")
    return InvalidValue(f"cannot listen on {where}: {exc.strerror or exc}", hint="see QUILT_HOST and QUILT_PORT")
