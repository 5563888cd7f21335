"""`quilt exec`: a command in a container, with this process's stdin, stdout and stderr, and the command's exit code.

Not here: terminals (`quilt_fn.cli.shell`).
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import click

from quilt_fn.errors import QuiltError

if TYPE_CHECKING:
    from quilt_fn.remote_commands import Commands

PLATFORM_FAILED = 125
TIMED_OUT = 124
PIECE_BYTES = 32 * 1024
PIECES_AHEAD = 8


@click.command(
    "exec",
    short_help="Run a command in a container.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--env", "-e", "environment", multiple=True, metavar="NAME=VALUE", help="More environment; repeatable.")
@click.option("--workdir", "-w", metavar="PATH", help="The folder to run in.")
@click.option("--user", "-u", metavar="USER[:GROUP]", help="Of the container's own; by default its root.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.001), help="Seconds; by default none.")
def exec_(
    name: str, command: tuple[str, ...], environment: tuple[str, ...], workdir: str | None, user: str | None,
    timeout_s: float | None,
) -> None:  # fmt: skip
    """Run a command in a container.

    Its stdin, stdout and stderr are this command's, and its exit code too: 127 where it is not there, 126 where it
    can't be executed, 125 where it is the platform that failed, 124 at the time limit. Write `--` before a command
    with options of its own.
    """
    argv = list(command[1:] if command[0] == "--" else command)
    if not argv:
        raise click.UsageError("a command is missing after --")
    body: dict[str, Any] = {"command": argv, "environment": parsed(environment)}
    body |= {"working_directory": workdir} if workdir else {}
    body |= {"user": user} if user else {}
    body |= {"timeout_ms": max(1, round(timeout_s * 1000))} if timeout_s else {}
    sys.exit(guarded(lambda: asyncio.run(_run(name, body))))


def parsed(environment: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE`, or `NAME` alone for its value here. Raises a usage error."""
    found = {}
    for entry in environment:
        name, given, value = entry.partition("=")
        if not name or (not given and name not in os.environ):
            raise click.BadParameter(f"{entry!r} must be NAME=VALUE, or a NAME that is set here", param_hint="--env")
        found[name] = value if given else os.environ[name]
    return found


def guarded(work: Any) -> int:
    """What `work` answers; 125, and the reason on stderr, where it was the platform that failed."""
    from quilt_fn.cli.output import show_error

    try:
        return int(work())
    except QuiltError as error:
        show_error(error, as_json=False)
        return PLATFORM_FAILED


def connection() -> Commands:
    from quilt_fn import credentials, settings
    from quilt_fn.remote_commands import Commands

    known = settings.read()
    url = known.base_url.rstrip("/")
    return Commands(url, known.api_key or credentials.lookup(url))


async def _run(name: str, body: dict[str, Any]) -> int:
    code, timed_out = PLATFORM_FAILED, False
    async with connection() as commands:
        container_id = await commands.container_id(name)
        async with commands.stream(container_id, body, _stdin()) as frames:
            async for frame in frames:
                kind = frame["type"]
                if kind in ("stdout", "stderr"):
                    # Blocking on purpose: who reads our output slowly slows the command.
                    _write(1 if kind == "stdout" else 2, base64.b64decode(frame["data_b64"]))
                elif kind == "exit":
                    code = int(frame["code"])
                    if frame.get("exit_reason") == "out_of_memory":
                        click.echo("quilt: the container's memory ran out, and the command was killed for it", err=True)
                        click.echo(f"hint: quilt containers resize {name} --memory-mb …", err=True)
                elif kind in ("error", "timeout"):
                    timed_out = timed_out or kind == "timeout"
                    click.echo(f"quilt: {frame['message']}", err=True)
    return TIMED_OUT if timed_out else code


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


async def _stdin() -> AsyncIterator[bytes]:
    """This process's stdin as it comes, from a thread: files, pipes and terminals alike. Where the command ends first
    the thread is left behind.
    """
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes] = asyncio.Queue()
    room = threading.Semaphore(PIECES_AHEAD)

    def read() -> None:
        piece = b"-"
        while piece:
            room.acquire()
            try:
                piece = os.read(0, PIECE_BYTES)
            except OSError:
                piece = b""  # no stdin at all: closed, or of a terminal that is not ours to read
            try:
                loop.call_soon_threadsafe(pieces.put_nowait, piece)
            except RuntimeError:
                return  # the loop has ended

    threading.Thread(target=read, name="stdin", daemon=True).start()
    while piece := await pieces.get():
        room.release()
        yield piece
