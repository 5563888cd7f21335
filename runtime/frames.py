"""The node's side of an instance's data socket: whole frames out of a stream that a hostile handler may write to.

Not here: what a frame means (`instance`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

import orjson

from runtime.guest import wire

Frame = tuple[int, dict[str, Any], bytes]
HIGH_WATER = 1 << 20
"""A stream that is not read stops being received at this many bytes: the handler's next yield then waits."""


class FrameProtocol(asyncio.Protocol):
    """Calls `on_frame(type, meta, body)` for each frame, `on_lost()` once at the end or at the first bad frame."""

    def __init__(self, on_frame: Callable[[int, dict[str, Any], bytes], None], on_lost: Callable[[], None]) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._rest = bytearray()
        self._lost = False
        self.body_limit = wire.BODY_LIMIT
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        size = len(data)
        if not self._rest and size >= 9:
            kind, meta_size, body_size = wire.HEADER.unpack_from(data)
            if size == 9 + meta_size + body_size:  # nearly always: one frame, whole
                self._frame(kind, data[9 : 9 + meta_size], data[9 + meta_size :])
                return
        self._rest += data
        while len(self._rest) >= 9 and not self._lost:
            kind, meta_size, body_size = wire.HEADER.unpack_from(self._rest)
            if meta_size > wire.META_LIMIT or body_size > self.body_limit:
                self._end()
                return
            end = 9 + meta_size + body_size
            if len(self._rest) < end:
                return
            meta, body = bytes(self._rest[9 : 9 + meta_size]), bytes(self._rest[9 + meta_size : end])
            del self._rest[:end]
            self._frame(kind, meta, body)

    def _frame(self, kind: int, meta: bytes, body: bytes) -> None:
        try:
            parsed = orjson.loads(meta) if meta else {}
            if not isinstance(parsed, dict):
                raise ValueError("meta is no object")
        except ValueError:
            self._end()
            return
        self._on_frame(kind, parsed, body)

    def _end(self) -> None:
        if self.transport is not None:
            self.transport.abort()
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self._on_lost()


async def connect(sock: socket.socket, protocol: FrameProtocol) -> None:
    """Put `protocol` on the connected stream socket `sock`, which it owns from now on."""
    await asyncio.get_running_loop().create_unix_connection(lambda: protocol, sock=sock)
