"""Terminal sessions: their routes, the websocket that attaches to one, and the page that shows it in a browser.

Not here: what a session is (`runtime.containers.terminals`), whose it is (`pool.terminals`).
"""

from __future__ import annotations

import asyncio
import functools
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
from aiohttp import WSCloseCode, WSMsgType, web
from pydantic import ValidationError

from gateway import body, examples, health, pages
from gateway.auth import accept, credential, missing
from gateway.context import Ask, answer, dump
from gateway.errors import invalid_field
from gateway.route import Concern, Query, Route
from pool.terminals import TICKET_PREFIX
from quilt_fn.errors import Forbidden, InvalidRequest, NotFound
from quilt_fn.model.terminal import TerminalCreate, TerminalRecord, TerminalSize
from runtime.containers.terminals import Attachment

PROTOCOL = "terminal"
MESSAGE_LIMIT_BYTES = 1 << 20
HEARTBEAT_S = 30.0
"""A client that reads nothing answers no ping: half of this later its connection is closed."""
SIGNALS = {name: getattr(signal, name) for name in ("SIGINT", "SIGQUIT", "SIGTSTP", "SIGTERM", "SIGHUP", "SIGKILL",
                                                    "SIGCONT", "SIGUSR1", "SIGUSR2", "SIGWINCH")}  # fmt: skip
PAGE = Path(__file__).with_name("page")
ASSETS = {
    "xterm.js": "text/javascript",
    "addon-fit.js": "text/javascript",
    "terminal.js": "text/javascript",
    "xterm.css": "text/css",
    "terminal.css": "text/css",
}
PAGE_HEADERS = {
    # xterm.js writes its colours and sizes as style elements; nothing else is let in, from nowhere else.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


async def create(ask: Ask) -> web.StreamResponse:
    wanted = body.parse(TerminalCreate, await body.read(ask.request, ask.services.max_body_bytes))
    return answer(await ask.platform.terminals.create(ask.tenant_id, wanted), 201)


async def list_(ask: Ask) -> web.StreamResponse:
    return pages.page("sessions", ask.platform.terminals.list(ask.tenant_id, *pages.asked(ask)))


async def get(ask: Ask) -> web.StreamResponse:
    return answer(ask.platform.terminals.get(ask.tenant_id, ask.path("session_id")))


async def delete(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.terminals.delete(ask.tenant_id, ask.path("session_id")))


async def resize(ask: Ask) -> web.StreamResponse:
    size = body.parse(TerminalSize, await body.read(ask.request, ask.services.max_body_bytes))
    return answer(ask.platform.terminals.resize(ask.tenant_id, ask.path("session_id"), size))


# --- the websocket ------------------------------------------------------------------------------------------------


async def attach(ask: Ask) -> web.StreamResponse:
    """Until the session ends or the client leaves; the session goes on without it."""
    check_origin(ask.request)
    client = await _client(ask)
    try:
        ws = web.WebSocketResponse(
            protocols=(PROTOCOL,), heartbeat=HEARTBEAT_S, max_msg_size=MESSAGE_LIMIT_BYTES, compress=False
        )
        if not ws.can_prepare(ask.request):
            raise InvalidRequest(
                "this is a websocket: a plain request can't attach to a terminal",
                hint=f"upgrade it, with the subprotocol {PROTOCOL}; a browser opens /terminal/<session_id>",
            )
        await ws.prepare(ask.request)
        background = ask.services.background
        tasks = [background.start(_show(ws, client)), background.start(_away(ws, background.closing))]
        try:
            async for message in ws:
                if message.type is WSMsgType.BINARY:
                    if not client.write(message.data):
                        await _tell(ws, type="error", message="the command reads nothing: what was typed is dropped")
                elif message.type is WSMsgType.TEXT:
                    await _control(ws, client, message.data)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return ws
    finally:
        client.close()


def check_origin(request: web.BaseRequest) -> None:
    """A page of another site must not open a terminal with a token that it got hold of. Programs send no Origin."""
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != request.host.lower():
        raise Forbidden("this websocket is for pages of this platform only", details={"origin": origin[:200]})


async def _client(ask: Ask) -> Attachment:
    session_id = ask.request.query.get("session_id")
    if not session_id:
        raise invalid_field("session_id", "the id of a terminal session", session_id)
    token = credential(ask.request, in_query=True)
    if token is None:
        raise missing()
    terminals = ask.platform.terminals
    if token.startswith(TICKET_PREFIX):
        return terminals.attach_by_ticket(token, session_id)
    caller = await accept(ask.platform, token)
    return terminals.attach(caller.tenant_id, session_id)


async def _show(ws: web.WebSocketResponse, client: Attachment) -> None:
    session = client.session
    try:
        await _tell(ws, type="ready", session_id=session.session_id, pid=session.pid,
                    cols=session.size[0], rows=session.size[1])  # fmt: skip
        while (data := await client.receive()) is not None:
            await ws.send_bytes(data)
        await _tell(ws, type="exit", code=session.exit_code, reason=session.reason)
        await ws.close()
    except ConnectionError:
        return  # it has left; the loop over its messages ends by itself


async def _away(ws: web.WebSocketResponse, closing: asyncio.Event) -> None:
    await closing.wait()
    await ws.close(code=WSCloseCode.GOING_AWAY, message=b"the node is shutting down")


async def _tell(ws: web.WebSocketResponse, **frame: Any) -> None:
    await ws.send_str(dump(frame).decode())


async def _control(ws: web.WebSocketResponse, client: Attachment, text: str) -> None:
    """resize, ping, signal. Anything else is told so, and does no harm."""
    try:
        frame = orjson.loads(text)
        kind = frame.get("type")
    except (orjson.JSONDecodeError, AttributeError):
        await _tell(ws, type="error", message="a text frame must be a JSON object with a `type`")
        return
    if kind == "ping":
        await _tell(ws, type="pong", **{name: frame[name] for name in ("id", "t") if name in frame})
    elif kind == "resize":
        try:
            size = TerminalSize.model_validate({name: frame.get(name) for name in ("cols", "rows")})
        except ValidationError:
            await _tell(ws, type="error", message="resize needs cols and rows from 1 to 1000")
            return
        client.session.resize(size.cols, size.rows)
    elif kind == "signal":
        name = str(frame.get("signal", "")).upper()
        number = SIGNALS.get(name if name.startswith("SIG") else "SIG" + name)
        if number is None:
            await _tell(ws, type="error", message="signal must be one of " + ", ".join(SIGNALS))
            return
        await client.session.signal(number)
    else:
        await _tell(ws, type="error", message="type must be resize, ping or signal")


# --- the page -----------------------------------------------------------------------------------------------------


@functools.cache
def _file(name: str) -> bytes:
    """Read once; a dozen kilobytes but for xterm.js."""
    return (PAGE / name).read_bytes()


async def page(_ask: Ask) -> web.StreamResponse:
    """The same for every session: it holds no secret, and says nothing of which sessions there are."""
    return web.Response(body=_file("terminal.html"), content_type="text/html", charset="utf-8", headers=PAGE_HEADERS)


async def asset(ask: Ask) -> web.StreamResponse:
    name = ask.path("name")
    if name not in ASSETS:
        raise NotFound(f"the terminal's page has no file {name[:80]!r}")
    headers = {**PAGE_HEADERS, "Cache-Control": "public, max-age=3600"}
    return web.Response(body=_file(name), content_type=ASSETS[name], charset="utf-8", headers=headers)


SESSIONS = "/api/terminal/sessions"
ONE = SESSIONS + "/{session_id}"
CONCERN = Concern(
    "terminal",
    "Terminals in containers: sessions on a pseudo-terminal that clients attach to, leave, and come back to.",
    routes=(
        Route(
            "POST", SESSIONS, create, "the session, with the addresses to attach to it and its ticket in them",
            body=TerminalCreate, answers=TerminalRecord, status=201, replay="secret",
        ),
        Route("GET", SESSIONS, list_, "`{sessions, next_cursor}`, newest first",
              answers=pages.example("sessions"), query=pages.QUERY),
        Route("GET", ONE, get, "the session", answers=TerminalRecord),
        Route("DELETE", ONE, delete, "ends it; the session as it ended", answers=TerminalRecord),
        Route("POST", ONE + "/resize", resize, "the session", body=TerminalSize, answers=TerminalRecord),
        Route(
            "GET", "/ws/terminal/attach", attach,
            "websocket, subprotocol `terminal`; `?session_id=`, `?token=` a key or the session's ticket",
            public=True, status=101, query=(Query("session_id", "of a session", required=True),
                                            Query("token", "an API key, or the session's ticket")),
        ),
        Route("GET", "/terminal/{session_id}", page, "the terminal in a browser", public=True, answers="text/html"),
        Route("GET", "/terminal/assets/{name}", asset, "a file of that page", public=True, answers="text/javascript"),
    ),
    health=health.spawner,
    examples=examples.TERMINAL,
    rules=(
        "Binary frames are the terminal, both ways. Text frames are JSON: `resize {cols, rows}`, `ping`, "
        "`signal {signal}` to the platform; `ready`, `pong`, `exit {code, reason}`, `error {message}` from it.",
        "A session lives for 4 hours, and for 30 minutes without a byte from either side. It ends with its command.",
        "Whoever attaches gets the last screenful first. A client that reads too slowly gets it anew; the session "
        "waits for nobody. At most 16 clients are attached to a session; its size is the last one that was asked for.",
        "A ticket attaches to its one session and does nothing else. The page takes it from the address's fragment.",
    ),
)  # fmt: skip
