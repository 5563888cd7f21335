"""`quilt exec`: a command in a container, with this process's stdin, stdout and stderr, and the command's exit code.

Not here: terminals (`quilt_fn.cli.shell`).
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from quilt_fn.cli import escapes, output
from quilt_fn.errors import QuiltError, Unavailable
from quilt_fn.output_bytes import Kept

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
@output.json_option
def exec_(
    name: str, command: tuple[str, ...], environment: tuple[str, ...], workdir: str | None, user: str | None,
    timeout_s: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Run a command in a container.

    Its stdin, stdout and stderr are this command's, and its exit code too: 127 where it is not there, 126 where it
    can't be executed, 125 where it is the platform that failed, 124 at the time limit. Write `--` before a command
    with options of its own. With --json the command's output and its end are one object, as the API's exec answers
    it, with at most 1 MiB of stdout and of stderr.
    """
    argv = list(command[1:] if command[0] == "--" else command)
    if not argv:
        raise click.UsageError("a command is missing after --")
    body: dict[str, Any] = {"command": argv, "environment": parsed(environment)}
    body |= {"working_directory": workdir} if workdir else {}
    body |= {"user": user} if user else {}
    body |= {"timeout_ms": max(1, round(timeout_s * 1000))} if timeout_s else {}
    sys.exit(guarded(lambda: asyncio.run(_run(name, body, _Gathered() if as_json else _Passed(name))), as_json))


def parsed(environment: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE`, or `NAME` alone for its value here. Raises a usage error."""
    found = {}
    for entry in environment:
        name, given, value = entry.partition("=")
        if not name or (not given and name not in os.environ):
            raise click.BadParameter(f"{entry!r} must be NAME=VALUE, or a NAME that is set here", param_hint="--env")
        found[name] = value if given else os.environ[name]
    return found


def guarded(work: Callable[[], int], as_json: bool = False) -> int:
    """What `work` answers; 125, and the reason on stderr, where it was the platform that failed."""
    try:
        return work()
    except QuiltError as error:
        output.show_error(error, as_json=as_json)
        return PLATFORM_FAILED


def connection() -> Commands:
    from quilt_fn import credentials, settings
    from quilt_fn.remote_commands import Commands

    known = settings.read()
    url = known.base_url.rstrip("/")
    return Commands(url, known.api_key or credentials.lookup(url))


async def _run(name: str, body: dict[str, Any], shown: _Passed | _Gathered) -> int:
    async with connection() as commands:
        container_id = await commands.container_id(name)
        async with commands.stream(container_id, body, _stdin()) as frames:
            async for frame in frames:
                if "data_b64" in frame:
                    shown.wrote(frame["type"], base64.b64decode(frame["data_b64"]))
                else:
                    shown.said(frame)
    return shown.over(container_id)


class _Passed:
    """What a command writes goes where this process writes, its end to people."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._code = PLATFORM_FAILED

    def wrote(self, stream: str, data: bytes) -> None:
        # Blocking on purpose: who reads our output slowly slows the command.
        _write(1 if stream == "stdout" else 2, data)

    def said(self, frame: Mapping[str, Any]) -> None:
        if "message" in frame:
            click.echo(escapes.line(f"quilt: {frame['message']}"), err=True)
        if frame["type"] == "exit":
            self._code = TIMED_OUT if frame["exit_reason"] == "timed_out" else int(frame["code"])
            if frame["exit_reason"] == "out_of_memory":
                click.echo("quilt: the container's memory ran out, and the command was killed for it", err=True)
                click.echo(f"hint: quilt containers resize {self._name} --memory-mb …", err=True)

    def over(self, container_id: str) -> int:
        return self._code


class _Gathered:
    """All of it becomes one object."""

    def __init__(self) -> None:
        self._streams = {"stdout": Kept(), "stderr": Kept()}
        self._exit: Mapping[str, Any] | None = None
        self._message = "the platform did not say how the command ended"

    def wrote(self, stream: str, data: bytes) -> None:
        self._streams[stream].add(data)

    def said(self, frame: Mapping[str, Any]) -> None:
        if frame["type"] == "error":
            self._message = frame["message"]
        elif frame["type"] == "exit":
            self._exit = frame

    def over(self, container_id: str) -> int:
        """Prints it. Raises Unavailable where the container went away first."""
        if self._exit is None:
            raise Unavailable(self._message)
        reason, code = self._exit["exit_reason"], int(self._exit["code"])
        if reason == "not_started":
            self._streams["stderr"].add(f"quilt: {self._message}\n".encode())
        texts = {name: kept.in_json() for name, kept in self._streams.items()}
        output.print_json(
            {
                "container_id": container_id, "exit_code": code, "exit_reason": reason,
                **{name: text for name, (text, _) in texts.items()},
                **{f"{name}_b64": exact for name, (_, exact) in texts.items()},
                "execution_time_ms": self._exit["elapsed_ms"], "timed_out": reason == "timed_out",
                "truncated": any(kept.truncated for kept in self._streams.values()),
            }
        )  # fmt: skip
        return TIMED_OUT if reason == "timed_out" else code


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
