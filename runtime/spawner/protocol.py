"""Messages between node and spawner: one JSON object of at most 64 KiB with file descriptors, over SOCK_SEQPACKET.

The protocol carries ids, never paths. A request is {"id": n, "op": text, …}; the answer is {"id": n, "ok": true, …} or
{"id": n, "ok": false, "error": text, "kind": text, "details": {…}}, where kind tells what the caller can do:
`refused` (the request is wrong), `absent` (the thing is not there), `failed` (it was tried, and undone), `build`
(the user's requirements or bundle do not build), `full` (there is no room in a volume), `died` (the process that
carried it out was killed: what was half made is still there, until it is asked to go or a sweep finds it).
While it works, an operation may send {"id": n, "progress": text}.
"""

from __future__ import annotations

import array
import json
import os
import socket
from typing import Any

MESSAGE_LIMIT = 64 * 1024
DESCRIPTOR_LIMIT = 250


class Refused(Exception):
    """An operation that is not carried out. `kind` as above."""

    def __init__(self, message: str, kind: str = "refused", details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.details = details or {}


def send(sock: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MESSAGE_LIMIT:
        raise Refused(f"a message of {len(data)} bytes; the limit is {MESSAGE_LIMIT}")
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], ancillary)


def receive(sock: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The next message and its descriptors; None at the end. Raises Refused for what is not a message."""
    fds = array.array("i")
    data, ancillary, flags, _ = sock.recvmsg(
        MESSAGE_LIMIT + 1, socket.CMSG_SPACE(DESCRIPTOR_LIMIT * fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    received = list(fds)
    if not data:
        close(received)
        return None, []
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(data) > MESSAGE_LIMIT:
            raise Refused(f"a message over {MESSAGE_LIMIT} bytes or {DESCRIPTOR_LIMIT} descriptors")
        message = json.loads(data)
        if not isinstance(message, dict):
            raise Refused("a message must be a JSON object")
    except (ValueError, RecursionError, Refused) as error:
        close(received)
        raise Refused(str(error)) from None
    return message, received


def close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
