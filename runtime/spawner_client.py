"""The node's end of the spawner's socket: requests with descriptors in flight at once, answers by id, reconnection.

Not here: what is asked (`versions`, `kits`, `instance`). uvloop has no transport for SOCK_SEQPACKET, so this reads by
add_reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quilt_fn.errors import SpawnerError
from runtime.spawner import protocol

RECONNECT_S = 0.05
REQUEST_TIMEOUT_S = 120.0
LAYER_TIMEOUT_S = 1000.0
ENDS = frozenset({"delete", "end", "kill", "halt", "remove", "forget", "volume_drop", "volume_discard"})
"""Idempotent, and what they end is known to nobody afterwards: asked again where their process was killed."""
END_TRIES = 3


class SpawnerFailed(SpawnerError):
    """What the spawner answered instead. `kind` as in runtime.spawner.protocol."""

    def __init__(self, message: str, kind: str, details: dict[str, Any]) -> None:
        super().__init__(message, details=details)
        self.kind = kind


class SpawnerClient:
    """One connection, kept up. Requests made while it is away wait for it, up to their timeout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sock: socket.socket | None = None
        self._up = asyncio.Event()
        self._number = 0
        self._waiting: dict[
            int, tuple[asyncio.Future[tuple[dict[str, Any], list[int]]], Callable[..., None] | None]
        ] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self.kits: set[str] = set()
        """The kits that this node holds: in stock, or with an instance in them. A new spawner is told, and ends all
        others.
        """

    async def start(self, timeout_s: float = 20.0) -> None:
        self._keeper = asyncio.create_task(self._keep(), name="spawner-connection")
        try:
            await asyncio.wait_for(self._up.wait(), timeout_s)
        except TimeoutError:
            raise SpawnerError(f"no spawner answers at {self.path}; is `quilt up` running?") from None

    @property
    def connected(self) -> bool:
        return self._up.is_set()

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        self._hang_up()

    async def _keep(self) -> None:
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                sock.connect(str(self.path))
                protocol.send(sock, {"id": 0, "op": "keep", "kits": sorted(self.kits)})
            except OSError:
                sock.close()
                await asyncio.sleep(RECONNECT_S)
                continue
            sock.setblocking(False)
            self._sock = sock
            self._lost.clear()
            asyncio.get_running_loop().add_reader(sock.fileno(), self._read)
            self._up.set()
            await self._lost.wait()

    def _hang_up(self) -> None:
        if self._sock is None:
            return
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()
        self._sock = None
        self._up.clear()
        waiting, self._waiting = self._waiting, {}
        for future, _ in waiting.values():
            if not future.done():
                future.set_exception(SpawnerError("the spawner went away in the middle of this; it is being restarted"))
        self._lost.set()

    def _read(self) -> None:
        while self._sock is not None:
            try:
                message, fds = protocol.receive(self._sock)
            except BlockingIOError:
                return
            except OSError:
                message, fds = None, []
            if message is None:
                self._hang_up()
                return
            self._arrived(message, fds)

    def _arrived(self, message: dict[str, Any], fds: list[int]) -> None:
        number = message.get("id")
        entry = self._waiting.get(number) if isinstance(number, int) else None
        if entry is None:
            protocol.close(fds)  # nobody waits any more: it was cancelled, or ran past its time
            return
        future, progress = entry
        if "progress" in message:
            if progress is not None:
                text, pct = str(message["progress"]), message.get("pct")
                progress(text) if pct is None else progress(text, float(pct))
        elif future.done():
            protocol.close(fds)
        elif message["ok"]:
            future.set_result((message, fds))
        else:
            future.set_exception(
                SpawnerFailed(str(message["error"]), str(message["kind"]), dict(message.get("details") or {}))
            )

    async def request(
        self,
        op: str,
        fds: list[int] | None = None,
        *,
        progress: Callable[..., None] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
        **fields: Any,
    ) -> tuple[dict[str, Any], list[int]]:
        """The answer and its descriptors, which are the caller's to close. Raises SpawnerFailed, SpawnerError.

        `progress` is told each line, and how many percent are done where the operation says so.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        tries_left = END_TRIES if op in ENDS else 1
        while True:
            try:
                return await self._request(op, fds or [], progress, timeout_s, deadline, fields)
            except SpawnerFailed as error:
                tries_left -= 1
                if error.kind != "died" or not tries_left:
                    raise

    async def _request(
        self,
        op: str,
        fds: list[int],
        progress: Callable[..., None] | None,
        timeout_s: float,
        deadline: float,
        fields: dict[str, Any],
    ) -> tuple[dict[str, Any], list[int]]:
        loop = asyncio.get_running_loop()
        self._number += 1
        number = self._number
        future: asyncio.Future[tuple[dict[str, Any], list[int]]] = loop.create_future()
        try:
            async with asyncio.timeout_at(deadline):
                await self._send({"id": number, "op": op, **fields}, fds, number, future, progress)
                return await future
        except (TimeoutError, asyncio.CancelledError) as error:
            if future.done() and not future.cancelled() and future.exception() is None:
                protocol.close(future.result()[1])  # it came in the same turn, and nobody will see it
            if isinstance(error, asyncio.CancelledError):
                raise
            raise SpawnerError(f"the spawner did not answer `{op}` within {timeout_s:g} s") from None
        finally:
            self._waiting.pop(number, None)

    async def _send(self, message: dict[str, Any], fds: list[int], number: int, future: Any, progress: Any) -> None:
        while True:
            await self._up.wait()
            sock = self._sock
            if sock is None:
                continue
            self._waiting[number] = (future, progress)
            try:
                protocol.send(sock, message, fds)
                return
            except BlockingIOError:
                await asyncio.sleep(0.002)
            except protocol.Refused as error:
                raise SpawnerError(str(error)) from None
            except OSError:
                self._waiting.pop(number, None)
                self._hang_up()
