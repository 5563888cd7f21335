"""One instance: reads frames from the node, runs the handler, sends what came of it. Ends when the node's end is
closed.

Not here: how it came to be (`template`), what a handler's result becomes (`handler`).
"""

from __future__ import annotations

import _socket
import json
import os
import time

from . import reseed, wire
from .handler import StaticInfo, clean_traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

RECEIVE = 16 * 1024
"""Small: for a large one the allocator maps fresh memory at each call, which costs more than the call."""
JOIN_LIMIT = 64 * 1024
"""Up to here header, meta and body go out as one piece; a larger body is not copied."""


class Frames:
    """Frames over a blocking stream socket."""

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        self.rest = b""

    def read(self) -> tuple[int, dict[str, Any], bytes] | None:
        """The next frame; None at the end of the stream."""
        rest = self.rest or self.sock.recv(RECEIVE)
        while len(rest) < wire.HEADER.size:
            more = self.sock.recv(RECEIVE)
            if not more:
                return None
            rest += more
        kind, meta_size, body_size = wire.HEADER.unpack_from(rest)
        start = wire.HEADER.size + meta_size
        end = start + body_size
        if len(rest) < end:
            filled = bytearray(rest)
            while len(filled) < end:
                more = self.sock.recv(min(1 << 20, max(RECEIVE, end - len(filled))))
                if not more:
                    return None
                filled += more
            rest = bytes(filled)
        self.rest = rest[end:]
        return kind, json.loads(rest[wire.HEADER.size : start]) if meta_size else {}, rest[start:end]

    def send(self, kind: int, meta: dict[str, Any] | bytes, body: bytes = b"") -> None:
        """`meta` as a dict, or as JSON that stands ready."""
        if isinstance(meta, bytes):
            text = meta
        else:
            text = json.dumps(meta, separators=(",", ":")).encode() if meta else b""
        head = wire.HEADER.pack(kind, len(text), len(body)) + text
        if len(body) <= JOIN_LIMIT:
            self.sock.sendall(head + body)
        else:
            self.sock.sendall(head)
            self.sock.sendall(body)


def static_info(config: dict[str, Any]) -> StaticInfo:
    """What stays the same for all calls of an instance."""
    return StaticInfo(
        function_name=str(config.get("function_name", "")),
        version=int(config.get("version", 0)),
        memory_limit_mb=int(config.get("memory_limit_mb", 0)),
        result_limit=int(config.get("result_limit", 32 << 20)),
        instance_id=str(config.get("instance_id", "")),
    )


def serve(sock: _socket.socket, handler: Any, hooks: list[Callable[[], object]]) -> None:
    """Take the configuration, run the hooks, say READY, and serve until the node hangs up."""
    frames = Frames(sock)
    first = frames.read()
    if first is None or first[0] != wire.CONFIG:
        return
    config = first[1]
    reseed.reseed(os.urandom(64))
    os.environ.update(config.get("secrets", {}))
    os.environ["QUILT_INSTANCE_ID"] = str(config.get("instance_id", ""))
    os.environ["QUILT_START"] = str(config.get("start", ""))
    os.environ["QUILT_CLOCK_OFFSET_S"] = str(config.get("clock_offset_s", 0))
    begun = time.monotonic()
    try:
        for hook in hooks:
            hook()
    except BaseException as error:
        frames.send(wire.FAIL, {"code": "HOOK_FAILED", "type": type(error).__name__, "message": str(error)[:8000],
                                "traceback": clean_traceback(error)[-32_000:]})  # fmt: skip
        return
    ms = {"hooks": (time.monotonic() - begun) * 1e3} if hooks else {}
    frames.send(wire.READY, {"context": bool(handler.wants_request), "ms": ms})
    static = static_info(config)
    while (frame := frames.read()) is not None:
        if frame[0] == wire.INVOKE:
            handler.serve(frame[1], frame[2], frames.send, static)
