"""`Client().terminals`: sessions on a pseudo-terminal in containers, which clients attach to, leave, and come back to.

    with box.terminal(cols=120) as terminal, terminal.attach() as screen:   # the session ends with the block
        screen.write("ls\\n")
        while piece := screen.read():
            ...

Each method waits, or is awaited as `.aio`. Not here: commands with pipes (`Container.exec`, `.stream`), and the
terminal that a person types in (`quilt shell`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from quilt_fn.twins import Closed, background, both

if TYPE_CHECKING:
    import aiohttp

    from quilt_fn.client import Client
    from quilt_fn.connection import Page
    from quilt_fn.model.terminal import TerminalRecord

SESSIONS = "/api/terminal/sessions"
CLOSE_TIMEOUT_S = 60.0


class Terminals:
    """The sessions of the client's tenant. Every method raises what `quilt_fn.client.Client` raises."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @both
    async def list(self, limit: int = 100, cursor: str | None = None) -> Page:
        """Records, newest first; those that have ended for another minute."""
        from quilt_fn.connection import paged
        from quilt_fn.model.terminal import TerminalRecord

        return await paged(self._client, SESSIONS, "sessions", TerminalRecord, limit=limit, cursor=cursor)

    @both
    async def get(self, session_id: str) -> Terminal:
        """Raises SessionNotFound."""
        return _terminal(self._client, await self._client._json("GET", _at(session_id), safe=True))


async def opened(client: Client, asked: dict[str, Any]) -> Terminal:
    """A new session of what model.terminal.TerminalCreate says."""
    return _terminal(client, await client._json("POST", SESSIONS, asked))


class Terminal(Closed):
    """One session. `record` is what was last known of it. A context manager, sync and async, that ends it."""

    def __init__(self, client: Client, record: TerminalRecord) -> None:
        self._client = client
        self.record = record
        self._page_path = record.page_url
        """Of the first record: a later one has no ticket in it."""

    def __repr__(self) -> str:
        return f"Terminal({self.id!r}, {self.record.state})"

    @property
    def id(self) -> str:
        return self.record.session_id

    @property
    def page_url(self) -> str:
        """The terminal in a browser. With the session's own ticket where this was opened here: whoever has the URL has
        the terminal, and nothing else.
        """
        return self._client.url + self._page_path

    @both
    async def refresh(self) -> Terminal:
        """Ask for the record again. Raises SessionNotFound."""
        return self._became(await self._client._json("GET", _at(self.id), safe=True))

    @both
    async def resize(self, cols: int, rows: int) -> Terminal:
        return self._became(await self._client._json("POST", _at(self.id, "/resize"), {"cols": cols, "rows": rows}))

    @both
    async def close(self) -> Terminal:
        """End the session and what runs in it. Nothing happens where it is gone already."""
        from quilt_fn.errors import SessionNotFound

        try:
            return self._became(await self._client._json("DELETE", _at(self.id), timeout_s=CLOSE_TIMEOUT_S))
        except SessionNotFound:
            return self

    @both
    async def attach(self) -> Screen:
        """A connection to it; what was shown last comes first. At most 16 at once. Raises SessionNotFound."""
        screen = Screen(self._client, self.record.attach_url)
        await screen._opened()
        return screen

    def _became(self, answer: dict[str, Any]) -> Terminal:
        from quilt_fn.model.terminal import TerminalRecord

        self.record = TerminalRecord.model_validate(answer)
        return self


class Screen(Closed):
    """One connection to a session: read what it shows, write what is typed. One reader at a time.

    `exit_code` and `reason` (exited, deleted, ttl, idle, container_gone) once `read` has answered nothing. A context
    manager, sync and async, that leaves the session, which goes on.
    """

    def __init__(self, client: Client, attach_url: str) -> None:
        self.exit_code: int | None = None
        self.reason: str | None = None
        self._held = _connection(client, attach_url)
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    @both
    async def read(self) -> bytes:
        """What came since the last read, as soon as something does; nothing once the session has ended.

        Raises Unavailable where the connection broke: the session goes on, attach to it again. Raises Conflict where
        the platform refused what was written.
        """
        from quilt_fn.errors import Conflict

        while self.reason is None:
            kind, frame = await self._frame()
            if kind == "shown":
                return bytes(frame)
            if kind == "exit":
                self.exit_code, self.reason = frame["code"], frame["reason"]
            elif kind == "error":
                raise Conflict(frame["message"])
        return b""

    @both
    async def write(self, data: bytes | str) -> None:
        """Type it. The session keeps 1 MiB for a command that does not read; what is beyond is told by `read`."""
        await self._send(data.encode() if isinstance(data, str) else data)

    @both
    async def resize(self, cols: int, rows: int) -> None:
        await self._send(json.dumps({"type": "resize", "cols": cols, "rows": rows}))

    @both
    async def signal(self, name: str) -> None:
        """To the process group in the foreground, e.g. SIGINT."""
        await self._send(json.dumps({"type": "signal", "signal": name}))

    @both
    async def close(self) -> None:
        """Leave the session. Idempotent."""
        self._socket = None
        await self._held.aclose()

    async def _opened(self) -> None:
        background.begun(self._held)
        self._socket = await anext(self._held)

    async def _send(self, data: bytes | str) -> None:
        socket = self._open()
        try:
            await (socket.send_bytes(data) if isinstance(data, bytes) else socket.send_str(data))
        except ConnectionError:
            raise _lost() from None

    async def _frame(self) -> tuple[str, Any]:
        import aiohttp

        message = await self._open().receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            return "shown", message.data
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise _lost()
        frame = json.loads(message.data)
        return str(frame["type"]), frame

    def _open(self) -> aiohttp.ClientWebSocketResponse:
        if self._socket is None:
            raise _lost()
        return self._socket


async def _connection(client: Client, attach_url: str) -> AsyncGenerator[aiohttp.ClientWebSocketResponse, None]:
    """The websocket, open for as long as this is: it ends with the loop, if not before."""
    from quilt_fn.remote_commands import Commands

    async with Commands(client.url, client.api_key) as commands, commands.attach(attach_url) as socket:
        yield socket


def _lost() -> Exception:
    from quilt_fn.errors import Unavailable

    return Unavailable(
        "the connection to the terminal is closed", hint="attach again: the session goes on, and shows its last screen"
    )


def _terminal(client: Client, answer: dict[str, Any]) -> Terminal:
    from quilt_fn.model.terminal import TerminalRecord

    return Terminal(client, TerminalRecord.model_validate(answer))


def _at(session_id: str, rest: str = "") -> str:
    return f"{SESSIONS}/{quote(session_id, safe='')}{rest}"
