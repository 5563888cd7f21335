"""Terminal sessions of one node: a command on a pseudo-terminal that clients attach to, leave, and come back to.

A session reads its terminal whether somebody looks or not. Each client has a bounded buffer of its own: one that falls
behind is not waited for, it gets the last screenful anew once it reads again. A session ends with its command, when it
is deleted, four hours after its start, and when for half an hour nothing came from either side.

Not here: websockets (`gateway.terminals`), who may attach (the pool).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import signal
import time
from collections import deque
from collections.abc import Callable

from quilt_fn.errors import QuiltError, SessionNotFound, Unavailable
from runtime.containers.api import Command, InitLink, Process
from runtime.containers.exec import GRACE_S, KILLED_WITHIN_S, kill_quietly
from runtime.containers.pipes import Sink, Source
from runtime.containers.screen import Screen

TTL_S = 4 * 3600.0
IDLE_S = 30 * 60.0
REMEMBERED_S = 60.0
"""How long an ended session can still be asked for its exit code."""
CLIENT_BUFFER_BYTES = 256 * 1024
TYPED_AHEAD_BYTES = 1 << 20
TYPED_PIECE_BYTES = 1024
CLIENTS = 16
PIECE_BYTES = 32 * 1024
PIECE_PAUSE_S = 0.004
"""After a large piece: 8 MB/s is more than a terminal shows, and less than what would keep the loop busy."""
DRAIN_S = 0.3
TIOCSIG = 0x40045436
FROM_THE_KEYBOARD = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP})


class Attachment:
    """One client of a session. `receive` answers what to show next; None when the session has ended."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._pieces: deque[bytes] = deque([session.screen.replay()])
        self._size = 0
        self._behind = False
        self._changed = asyncio.Event()
        self._changed.set()

    def offer(self, data: bytes) -> None:
        """Never waits."""
        if self._behind:
            return
        if self._size + len(data) > CLIENT_BUFFER_BYTES:
            self._behind = True
            self._pieces.clear()
            self._size = 0
        else:
            self._pieces.append(data)
            self._size += len(data)
        self._changed.set()

    def wake(self) -> None:
        self._changed.set()

    async def receive(self) -> bytes | None:
        while True:
            if self._behind:
                self._behind = False
                return self.session.screen.replay()
            if self._pieces:
                data = b"".join(self._pieces)
                self._pieces.clear()
                self._size = 0
                return data
            if self.session.ended:
                return None
            self._changed.clear()
            await self._changed.wait()

    def write(self, data: bytes) -> bool:
        """What was typed; False where the command has read nothing for so long that it can't be kept. Never waits."""
        return self.session.type_in(data)

    def close(self) -> None:
        """The client leaves; the session goes on. Idempotent."""
        self.session.clients.discard(self)


class Session:
    """One terminal. `exit_code` and `reason` (exited | deleted | ttl | idle | container_gone) once it has `ended`."""

    def __init__(
        self, session_id: str, tenant_id: str, container_id: str, process: Process, size: tuple[int, int]
    ) -> None:
        self.session_id = session_id
        self.tenant_id = tenant_id
        self.container_id = container_id
        self.size = size
        self.created_at = time.time()
        self.last_active_at = self.created_at
        self.ended_at: float | None = None
        self.exit_code: int | None = None
        self.reason: str | None = None
        self.screen = Screen()
        self.clients: set[Attachment] = set()
        self._sink = Sink(process.stdin, owned=False)
        self._typed = bytearray()
        self._typing = asyncio.Event()
        self._source = Source(process.stdout)
        self._process = process
        self._active = time.monotonic()
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._live(), name=f"terminal {session_id}")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self.ended_at is not None

    def touch(self) -> None:
        self._active = time.monotonic()
        self.last_active_at = time.time()

    def type_in(self, data: bytes) -> bool:
        if self.ended or len(self._typed) + len(data) > TYPED_AHEAD_BYTES:
            return False
        self.touch()
        self._typed += data
        self._typing.set()
        return True

    def attach(self) -> Attachment:
        """Raises Unavailable where too many are attached."""
        if len(self.clients) >= CLIENTS:
            raise Unavailable(f"{CLIENTS} clients are attached to this terminal already")
        client = Attachment(self)
        self.clients.add(client)
        self.touch()
        return client

    def resize(self, columns: int, rows: int) -> None:
        """The terminal's size for all of its clients; the command is told by SIGWINCH."""
        self.size = columns, rows
        if not self.ended:
            self._process.resize(columns, rows)

    async def signal(self, number: int) -> None:
        """To what runs in the terminal's foreground where a keyboard could send it, else to the session's own group."""
        if self.ended:
            return
        if number in FROM_THE_KEYBOARD:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._source.fd, TIOCSIG, number)
            return
        await kill_quietly(self._process, number)

    def end(self, reason: str) -> None:
        """Begin to end it. Idempotent; `wait` for the end."""
        if self.reason is None:
            self.reason = reason
        self._stop.set()

    async def wait(self) -> None:
        await asyncio.shield(self._task)

    async def _live(self) -> None:
        began = time.monotonic()
        reader = asyncio.create_task(self._read(), name=f"terminal {self.session_id} output")
        writer = asyncio.create_task(self._write(), name=f"terminal {self.session_id} input")
        waiter = asyncio.create_task(self._process.wait(), name=f"terminal {self.session_id} end")
        stop = asyncio.create_task(self._stop.wait(), name=f"terminal {self.session_id} stop")
        try:
            while not waiter.done() and not stop.done():
                left = min(began + TTL_S, self._active + IDLE_S) - time.monotonic()
                if left <= 0:
                    self.end("ttl" if time.monotonic() >= began + TTL_S else "idle")
                await asyncio.wait((waiter, stop), timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
            if not waiter.done():
                await self._hang_up(waiter)
            # What the command wrote last; its background children may hold the terminal open.
            await asyncio.wait((reader,), timeout=DRAIN_S)
            if waiter.done():
                try:
                    self.exit_code = waiter.result()
                    self.reason = self.reason or "exited"
                except QuiltError:
                    self.reason = self.reason or "container_gone"
        finally:
            for task in (reader, writer, waiter, stop):
                task.cancel()
            await asyncio.gather(reader, writer, waiter, stop, return_exceptions=True)
            self.reason = self.reason or "deleted"
            self._sink.close()
            self._source.close()
            self.ended_at = time.time()
            for client in list(self.clients):
                client.wake()

    async def _hang_up(self, waiter: asyncio.Task[int]) -> None:
        """As a terminal that is closed does: SIGHUP, and SIGKILL for what does not care."""
        for number, patience_s in ((signal.SIGHUP, GRACE_S), (signal.SIGKILL, KILLED_WITHIN_S)):
            await kill_quietly(self._process, number)
            if self._process.frozen:
                await kill_quietly(self._process, signal.SIGKILL)  # both arrive when the container is resumed
                return
            await asyncio.wait((waiter,), timeout=patience_s)
            if waiter.done():
                return

    async def _write(self) -> None:
        while True:
            await self._typing.wait()
            self._typing.clear()
            while self._typed:
                piece = bytes(self._typed[:TYPED_PIECE_BYTES])
                if not await self._sink.write(piece):
                    return
                del self._typed[: len(piece)]

    async def _read(self) -> None:
        while data := await self._source.read(PIECE_BYTES):
            self.touch()
            self.screen.feed(data)
            for client in self.clients:
                client.offer(data)
            if len(data) >= PIECE_BYTES // 8:
                await asyncio.sleep(PIECE_PAUSE_S)


class TerminalSessions:
    """The sessions of this node. They do not outlive it."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._sessions: dict[str, Session] = {}
        self._keepers: set[asyncio.Task[None]] = set()

    async def create(self, tenant_id: str, container_id: str, link: InitLink, command: Command) -> Session:
        """Raises CommandNotStarted, ContainerNotRunning."""
        assert command.tty is not None
        process = await link.run(command)
        session = Session(self._new_id(), tenant_id, container_id, process, command.tty)
        self._sessions[session.session_id] = session
        keeper = asyncio.create_task(self._forget(session), name=f"terminal {session.session_id} record")
        self._keepers.add(keeper)
        keeper.add_done_callback(self._keepers.discard)
        return session

    async def _forget(self, session: Session) -> None:
        await session.wait()
        if session.reason != "deleted":
            await asyncio.sleep(REMEMBERED_S)
        self._sessions.pop(session.session_id, None)

    def get(self, session_id: str) -> Session:
        """Raises SessionNotFound."""
        session = self._sessions.get(session_id)
        if session is None:
            raise SessionNotFound(
                f"there is no terminal session {session_id!r}",
                hint="sessions end with their command, after 4 hours, and when idle for 30 minutes",
            )
        return session

    def has(self, session_id: str) -> bool:
        return session_id in self._sessions

    def of(self, tenant_id: str) -> list[Session]:
        """Newest first."""
        found = [session for session in self._sessions.values() if session.tenant_id == tenant_id]
        return sorted(found, key=lambda session: session.created_at, reverse=True)

    async def close(self) -> None:
        """The node goes: every session ends."""
        for session in self._sessions.values():
            session.end("deleted")
        await asyncio.gather(*(session.wait() for session in self._sessions.values()), return_exceptions=True)
        for keeper in list(self._keepers):
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
