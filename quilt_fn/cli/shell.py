"""`quilt shell`: a terminal in a container, in the terminal that this runs in.

Not here: commands with pipes (`quilt_fn.cli.exec`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from quilt_fn.cli.exec import PLATFORM_FAILED, connection, guarded, parsed

if TYPE_CHECKING:
    import aiohttp

PIECE_BYTES = 16 * 1024
RESET = b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?1049l\x1b[?25h\x1b[0m"
"""What a full-screen program may have left behind when the connection broke: mouse, paste and screen modes."""


@click.command(short_help="Open a terminal in a container.")
@click.argument("name")
@click.option("--shell", metavar="PATH", help="By default bash where the container has it, else sh.")
@click.option("--env", "-e", "environment", multiple=True, metavar="NAME=VALUE", help="More environment; repeatable.")
@click.option("--workdir", "-w", metavar="PATH", help="The folder to begin in.")
@click.option("--user", "-u", metavar="USER[:GROUP]", help="Of the container's own; by default its root.")
@click.option("--session", metavar="ID", help="Attach again to a session that goes on.")
@click.option("--json", "as_json", is_flag=True, hidden=True)
def shell(
    name: str, shell: str | None, environment: tuple[str, ...], workdir: str | None, user: str | None,
    session: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Open a terminal in a container.

    Keys go inside, Ctrl-C too, and the shell's exit code is passed on; 125 where it is the platform that failed.
    """
    if as_json:
        raise click.UsageError(
            "a terminal is for people, so `quilt shell` prints no JSON; `quilt exec --json` runs one command,"
            " `quilt terminals list --json` lists sessions"
        )
    if not (os.isatty(0) and os.isatty(1)):
        raise click.UsageError("`quilt shell` needs a terminal; `quilt exec` runs commands without one")
    wanted: dict[str, Any] = {"environment": parsed(environment)}
    given = {"shell": shell, "working_directory": workdir, "user": user}
    wanted |= {key: value for key, value in given.items() if value}
    sys.exit(guarded(lambda: asyncio.run(_run(name, wanted, session))))


async def _run(name: str, wanted: dict[str, Any], session_id: str | None) -> int:
    async with connection() as commands:
        columns, rows = shutil.get_terminal_size()
        if session_id is None:
            container_id = await commands.container_id(name)
            body = {**wanted, "container_id": container_id, "cols": columns, "rows": rows}
            record = await commands.json("POST", "/api/terminal/sessions", body)
        else:
            record = await commands.json("GET", f"/api/terminal/sessions/{session_id}")
        async with commands.attach(record["attach_url"]) as socket:
            with raw_terminal():
                code = await _Attached(socket).run()
    if code is None:
        click.echo("\nquilt: the connection was lost", err=True)
        click.echo(f"hint: quilt shell {name} --session {record['session_id']}", err=True)
        return PLATFORM_FAILED
    return code


@contextlib.contextmanager
def raw_terminal() -> Iterator[None]:
    """Every key as it is typed, none of them ours; the terminal is as it was afterwards, whatever happens."""
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


class _Attached:
    """Between this terminal and the websocket. `run` answers the exit code; None where the connection broke."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._out: asyncio.Queue[bytes | str] = asyncio.Queue()

    async def run(self) -> int | None:
        sender = asyncio.create_task(self._send(), name="terminal-send")
        self._loop.add_reader(0, self._typed)
        self._loop.add_signal_handler(signal.SIGWINCH, self._resize)
        self._resize()
        try:
            return await self._show()
        finally:
            self._loop.remove_signal_handler(signal.SIGWINCH)
            self._loop.remove_reader(0)
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    def _typed(self) -> None:
        data = os.read(0, PIECE_BYTES)
        if data:
            self._out.put_nowait(data)
        else:
            self._loop.remove_reader(0)
            self._out.put_nowait(json.dumps({"type": "signal", "signal": "SIGHUP"}))

    def _resize(self) -> None:
        columns, rows = os.get_terminal_size(1)
        if columns and rows:
            self._out.put_nowait(json.dumps({"type": "resize", "cols": columns, "rows": rows}))

    async def _send(self) -> None:
        while True:
            piece = await self._out.get()
            if isinstance(piece, bytes):
                await self._socket.send_bytes(piece)
            else:
                await self._socket.send_str(piece)

    async def _show(self) -> int | None:
        import aiohttp

        async for message in self._socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                await asyncio.to_thread(_write, message.data)
                continue
            frame = json.loads(message.data)
            if frame["type"] == "exit":
                if frame["code"] is not None:
                    return int(frame["code"])
                _write(f"\r\nquilt: the session ended: {frame['reason']}\r\n".encode())
                return PLATFORM_FAILED
        _write(RESET)
        return None


def _write(data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(1, rest) :]
