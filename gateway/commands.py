"""The routes that run a command in a container: `exec` to its end, `stream` as frames.

Not here: terminals (`gateway.terminals`), what runs the command (`pool.commands`).
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import orjson
from aiohttp import web
from multidict import CIMultiDict

from gateway import body
from gateway.context import Ask, answer, dump
from gateway.functions import NDJSON
from gateway.responses import close, stream
from gateway.route import Route
from quilt_fn.errors import InvalidRequest
from quilt_fn.model.container import ExecRequest, ExecResult, StreamRequest

LINE_LIMIT_BYTES = 4 << 20
"""Of a line of an NDJSON request, the first one (the command) too."""
ENDLESS = 1 << 62


async def exec_(ask: Ask) -> web.StreamResponse:
    """A client that leaves does not end its command; the time limit does."""
    wanted = body.parse(ExecRequest, await body.read(ask.request, ask.services.max_body_bytes))
    return answer(await ask.platform.commands.exec(ask.tenant_id, ask.path("container_id"), wanted))


async def stream_(ask: Ask) -> web.StreamResponse:
    """A JSON body, or NDJSON: the first line is the same object, those after it `{"data_b64"}` of stdin as it comes."""
    stdin: AsyncIterator[bytes] | None = None
    if ask.request.content_type == NDJSON:
        lines = _lines(ask.request)
        wanted = body.parse(StreamRequest, await anext(lines, b""))
        stdin = _input(lines)
    else:
        wanted = body.parse(StreamRequest, await body.read(ask.request, ask.services.max_body_bytes))
    frames = ask.platform.commands.stream(ask.tenant_id, ask.path("container_id"), wanted, stdin)
    try:
        first = await anext(frames)  # what is wrong before the command began is an error with its status
    except BaseException:
        await close(frames)
        raise
    headers = CIMultiDict({"Content-Type": NDJSON, "X-Request-Id": ask.request_id, "Cache-Control": "no-store"})
    return await stream(ask.request, 200, headers, _line(first), _encoded(frames))


def _line(frame: dict[str, Any]) -> bytes:
    return dump(frame) + b"\n"


async def _encoded(frames: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    try:
        async for frame in frames:
            yield _line(frame)
    finally:
        await close(frames)


async def _lines(request: web.BaseRequest) -> AsyncIterator[bytes]:
    rest = b""
    async for piece in body.pieces(request, ENDLESS):
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line
        if len(rest) > LINE_LIMIT_BYTES:
            raise InvalidRequest(f"a line of the request has more than {LINE_LIMIT_BYTES} bytes")
    if rest:
        yield rest


async def _input(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for line in lines:
        if not line.strip():
            continue
        try:
            yield base64.b64decode(orjson.loads(line)["data_b64"], validate=True)
        except (ValueError, KeyError, TypeError):  # no JSON, not base64, not even ASCII
            raise InvalidRequest('each line after the first must be {"data_b64": "…"}') from None


ONE = "/api/containers/{container_id}"
ROUTES = (
    Route(
        "POST", ONE + "/exec", exec_, "what the command wrote and how it ended; a non-zero exit is still 200",
        body=ExecRequest, answers=ExecResult,
    ),
    Route(
        "POST", ONE + "/stream", stream_,
        "NDJSON frames `started`, `stdout`, `stderr`, `timeout`, `exit`, `error`; takes NDJSON too, for more stdin",
        body=StreamRequest, answers=NDJSON,
    ),
)  # fmt: skip
RULES = (
    "A command is an argument vector; nothing splits it. Its environment is the container's, then what was asked for.",
    "What can't be started has the exit code of a shell: 127 not found, 126 not executable, 125 no such user or "
    "folder, or no room for another process; the reason is on stderr.",
    "exec: at its time limit a command's process group gets SIGTERM, 2 s later SIGKILL; stdout and stderr are kept up "
    "to 1 MiB each. Its background children survive, and the answer does not wait for them.",
    "exec: `stdout` and `stderr` are text. Where one is not UTF-8, all of its bytes are in `stdout_b64` or "
    "`stderr_b64`, which is null otherwise. `stdin` is text too, `stdin_data` base64.",
    "`exit_reason` says why a command ended: exited, signalled, out_of_memory (the container's memory ran out, and the "
    "kernel killed it), timed_out, not_started.",
    "stream: a slow reader slows the command; a reader that leaves ends it.",
)
