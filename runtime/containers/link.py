"""The connection to one container's init: requests by number, answers with descriptors, ends of what was started.

The format is that of `runtime/guest/init/serve.h`. Not here: what is run and for how long (`runs`), and who makes the
connection (the spawner, which checks that it is the container's init that listens).
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import socket
import struct
import termios
from collections.abc import Callable
from enum import IntEnum

from quilt_fn.errors import Conflict, ContainerNotRunning, InternalError, InvalidValue, NotFound, Unavailable
from runtime.containers.api import Command, CommandNotStarted, InitStatus

REQUEST = struct.Struct("=IIIiiII")
ANSWER = struct.Struct("=IIiii")
MESSAGE_LIMIT = 160 * 1024
"""Bytes of one request: what a socket's buffer surely takes. The command, its environment and 28 bytes."""
STRINGS_LIMIT = 8192
ANSWER_TIMEOUT_S = 30.0
"""Init answers in a fraction of a millisecond; of hundreds of commands begun at once each waits for others' forks."""
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "QUILT": "1"}


class Op(IntEnum):
    STATUS = 1
    RUN = 2
    KILL = 3
    LOG = 4


class Kind(IntEnum):
    STATUS = 1
    STARTED = 2
    FAILED = 3
    ENDED = 4
    DONE = 5
    MAIN_ENDED = 6


class Step(IntEnum):
    """Where a start failed, as in serve.h."""

    ROOM = 1
    TERMINAL = 2
    USER = 3
    FOLDER = 4
    EXEC = 5
    MESSAGE = 6


RUN_TTY, RUN_MAIN, RUN_FOLDER, KILL_GROUP = 1, 2, 4, 1


def exit_code(status: int) -> int:
    """A wait status as a shell says it: 128 + signal where one ended the process."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


class InitProcess:
    """See runtime.containers.api.Process."""

    def __init__(self, link: InitLink, pid: int, fds: list[int], tty: bool) -> None:
        self.pid = pid
        self.stdin = fds[0]
        self.stdout = fds[0] if tty else fds[1]
        self.stderr = None if tty else fds[2]
        self._tty = tty
        self._link = link
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._ended.add_done_callback(lambda done: done.cancelled() or done.exception())  # who does not wait, need not

    @property
    def frozen(self) -> bool:
        return self._link.frozen

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    async def kill(self, signal: int) -> None:
        """To the command's process group, also when the command itself has ended and left children in it."""
        try:
            await self._link.kill_group(self.pid, signal)
        except NotFound:
            return

    def resize(self, columns: int, rows: int) -> None:
        if self._tty:
            fcntl.ioctl(self.stdout, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


Answer = tuple[Kind, int, int, int, InitProcess | None]
"""Kind, the three numbers of serve.h, and what was started."""


class InitLink:
    """See runtime.containers.api.InitLink. Takes `sock` over; made on a running loop."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        # A request of MESSAGE_LIMIT has to fit, whatever the machine's default is.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MESSAGE_LIMIT)
        self.on_lost: Callable[[], None] = _nothing
        self.on_main_exit: Callable[[int], None] = lambda _code: None
        self.frozen = False
        self._sock: socket.socket | None = sock
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._running: dict[int, InitProcess] = {}
        """By the number of the request that started it."""
        self._room = asyncio.Event()
        self._room.set()
        self._loop.add_reader(sock.fileno(), self._read)

    async def status(self, timeout_s: float = 2.0) -> InitStatus:
        _, main, status, others, _ = await self._ask(Op.STATUS, timeout_s=timeout_s)
        return InitStatus(main or None, exit_code(status) if main and status >= 0 else None, bool(others))

    async def set_log(self, files: tuple[int, int] | None, limit_bytes: int = 0) -> None:
        await self._done(Op.LOG, a=limit_bytes, fds=list(files or ()))

    async def start_main(self, command: Command) -> int:
        return (await self._start(command, RUN_MAIN))[0]

    async def run(self, command: Command) -> InitProcess:
        process = (await self._start(command, RUN_TTY if command.tty else 0))[1]
        if process is None:
            raise InternalError("init started a command and gave no way to speak to it")
        return process

    async def make_folder(self, path: str) -> None:
        process = (await self._start(Command(("mkdir",), working_directory=path), RUN_FOLDER))[1]
        if process is not None and process.stderr is not None:
            _close([process.stdin, process.stdout, process.stderr])

    async def kill(self, pid: int, signal: int) -> None:
        await self._done(Op.KILL, a=pid, b=signal)

    async def kill_group(self, pid: int, signal: int) -> None:
        if self.frozen:
            self._kill_unanswered(pid, signal)
            return
        await self._done(Op.KILL, a=pid, b=signal, flags=KILL_GROUP)

    def close(self) -> None:
        """Hang up. What was started goes on; whoever waits for its end is told that nobody will know."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._loop.remove_reader(sock.fileno())
        self._loop.remove_writer(sock.fileno())
        sock.close()
        gone = _not_running()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(gone)
        for process in self._running.values():
            if not process._ended.done():
                process._ended.set_exception(gone)
        self._waiting.clear()
        self._running.clear()
        self._room.set()

    # --- requests -------------------------------------------------------------------------------------------------

    async def _start(self, command: Command, flags: int) -> tuple[int, InitProcess | None]:
        environment = {**ENVIRONMENT, **command.environment}
        strings = [command.working_directory, command.user or "", *command.argv]
        strings += [f"{name}={value}" for name, value in environment.items()]
        body = b"".join(text.encode("utf-8", "surrogateescape") + b"\0" for text in strings)
        if any("\0" in text for text in strings):
            raise InvalidValue("a command, its folder and its environment hold no NUL bytes")
        if len(body) + REQUEST.size > MESSAGE_LIMIT or len(strings) > STRINGS_LIMIT:
            raise InvalidValue(
                f"a command and its environment have at most {MESSAGE_LIMIT - REQUEST.size} bytes in all, "
                f"and {STRINGS_LIMIT} words; these have {len(body)} and {len(strings)}",
                hint="write long input to the command's stdin, or to a file in the container",
            )
        columns, rows = command.tty or (0, 0)
        kind, a, b, _, process = await self._ask(
            Op.RUN, flags=flags, a=columns, b=rows, argc=len(command.argv), envc=len(environment), body=body
        )
        if kind is Kind.FAILED:
            raise _not_started(command, a, b)
        return a, process

    async def _done(self, op: Op, *, a: int = 0, b: int = 0, flags: int = 0, fds: list[int] | None = None) -> None:
        _, error, _, _, _ = await self._ask(op, a=a, b=b, flags=flags, fds=fds)
        if error == errno.ESRCH:
            raise NotFound(f"no process {a} runs in this container")
        if error == errno.EINVAL:
            raise InvalidValue(f"init does not take {op.name.lower()} {a} {b}")
        if error:
            raise Unavailable(f"{op.name.lower()}: {os.strerror(error)}")

    async def _ask(
        self, op: Op, *, flags: int = 0, a: int = 0, b: int = 0, argc: int = 0, envc: int = 0, body: bytes = b"",
        fds: list[int] | None = None, timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Answer:  # fmt: skip
        self._number = self._number % 0x7FFFFFFF + 1
        number = self._number
        future: asyncio.Future[Answer] = self._loop.create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(REQUEST.pack(op, number, flags, a, b, argc, envc) + body, fds or [], number, future)
                return await future
        except TimeoutError:
            raise Unavailable(
                f"the container's init did not answer within {timeout_s:g} s", details={"limit": "init_answer"}
            ) from None
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._abandon(future.result()[4])
            raise
        finally:
            self._waiting.pop(number, None)

    def _abandon(self, process: InitProcess | None) -> None:
        """A command was started in the very turn in which its caller was cancelled: nobody will read it."""
        if process is not None:
            _close([process.stdin] if process.stderr is None else [process.stdin, process.stdout, process.stderr])
            self._kill_unanswered(process.pid, signal.SIGKILL)

    def _kill_unanswered(self, pid: int, number: int) -> None:
        """Of what nobody asks for any more. Where init takes no message now, it is left with its pipes closed."""
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.send(REQUEST.pack(Op.KILL, 0, KILL_GROUP, pid, number, 0, 0))

    async def _send(self, message: bytes, fds: list[int], number: int, future: asyncio.Future[Answer]) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        while True:
            if self._sock is None:
                raise _not_running()
            self._waiting[number] = future
            try:
                self._sock.sendmsg([message], ancillary)
                return
            except BlockingIOError:
                await self._writable()
            except OSError as error:
                self._lost()
                raise _not_running() from error

    async def _writable(self) -> None:
        assert self._sock is not None
        fd = self._sock.fileno()
        self._room.clear()

        def ready() -> None:
            self._loop.remove_writer(fd)
            self._room.set()

        self._loop.add_writer(fd, ready)
        await self._room.wait()

    # --- answers --------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        for _ in range(64):  # then the loop's turn
            if self._sock is None:
                return
            fds = array.array("i")
            try:
                data, ancillary, _, _ = self._sock.recvmsg(
                    ANSWER.size + 1, socket.CMSG_SPACE(4 * fds.itemsize), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                data, ancillary = b"", []
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
            if len(data) != ANSWER.size:
                _close(list(fds))
                self._lost()
                return
            self._arrived(ANSWER.unpack(data), list(fds))

    def _arrived(self, answer: tuple[int, int, int, int, int], fds: list[int]) -> None:
        kind, number, a, b, c = answer
        if kind == Kind.MAIN_ENDED:
            self.on_main_exit(exit_code(b))
        elif kind == Kind.ENDED:
            process = self._running.pop(number, None)
            if process is not None and not process._ended.done():
                process._ended.set_result(exit_code(b))
        else:
            future = self._waiting.get(number)
            if future is None or future.done():
                _close(fds)  # its caller has gone
                if kind == Kind.STARTED and fds:
                    self._kill_unanswered(a, signal.SIGKILL)
                return
            process = None
            if kind == Kind.STARTED and len(fds) in (1, 3):
                process = self._running[number] = InitProcess(self, a, fds, len(fds) == 1)
                fds = []
            future.set_result((Kind(kind), a, b, c, process))
        _close(fds)

    def _lost(self) -> None:
        if self._sock is not None:
            self.close()
            self.on_lost()


def _not_running() -> ContainerNotRunning:
    return ContainerNotRunning("the container does not run any more", details={"state": "exited"})


def _not_started(command: Command, error: int, step: int) -> CommandNotStarted | Conflict:
    words = os.strerror(error)
    name = command.argv[0]
    if error == errno.EBUSY:
        return Conflict("the container's command runs already")
    if step == Step.EXEC:
        return CommandNotStarted(f"{name}: {words}", 127 if error == errno.ENOENT else 126)
    if step == Step.USER:
        what = "no such user or group in the container" if error == errno.ENOENT else words
        return CommandNotStarted(f"user {command.user}: {what}", 125)
    if step == Step.FOLDER:
        return CommandNotStarted(f"working directory {command.working_directory}: {words}", 125)
    if step == Step.TERMINAL:
        return CommandNotStarted(f"no terminal can be had: {words}", 125)
    if step == Step.MESSAGE:
        return CommandNotStarted(f"init could not read the command: {words}", 125)
    return CommandNotStarted(f"the container has no room for another process ({words}); see pids_limit", 125)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _nothing() -> None: ...
