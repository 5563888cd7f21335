"""The node's end of a template's control socket: ask it to load, be quiet, fork; hear how its instances ended.

Not here: who decides that (`versions`). The template's answers are a hostile container's words: shapes are checked,
nothing is trusted.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.guest.template import MESSAGE_LIMIT

FORK_TIMEOUT_S = 10.0
MESSAGES_A_TURN = 16


class TemplateGone(Exception):
    """The template's end of the connection closed."""


class ForkFailed(Exception):
    """The template could not fork; why."""


class TemplateLink:
    """One connection. `gone` is set when it has ended, whoever ended it."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=fd)
        self._sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._answers: dict[str, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        self._exits: dict[str, Callable[[int], None]] = {}
        self.gone = asyncio.Event()
        self.on_gone: Callable[[], None] = lambda: None
        self._loop.add_reader(self._sock.fileno(), self._read)

    def close(self) -> None:
        """Idempotent."""
        if self.gone.is_set():
            return
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        self.gone.set()
        for future in self._answers.values():
            if not future.done():
                future.set_exception(TemplateGone("the template ended"))
        self._answers.clear()
        self.on_gone()

    def _read(self) -> None:
        """Some messages a turn, so that a template that floods never holds the loop."""
        for _ in range(MESSAGES_A_TURN):
            if self.gone.is_set():
                return
            fds = array.array("i")
            try:
                data, ancillary, _, _ = self._sock.recvmsg(
                    MESSAGE_LIMIT, socket.CMSG_SPACE(4 * fds.itemsize), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                data, ancillary = b"", []
            for _, _, payload in ancillary:
                fds.frombytes(payload)
            if not data:
                self.close()
                return
            self._arrived(data, list(fds))

    def _arrived(self, data: bytes, fds: list[int]) -> None:
        try:
            message = json.loads(data)
            op, name = str(message["op"]), str(message.get("instance", ""))
            status = int(message.get("status", 0))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            op, name, status, message = "", "", 0, {}
        if op == "exited" and name in self._exits:
            self._exits.pop(name)(status)
        key = f"fork {name}" if op in ("forked", "fork_failed") else op
        if op not in ("forked", "output"):  # nothing else brings descriptors, and nobody would close them
            fds = _closed(fds)
        future = self._answers.pop(key, None)
        if future is not None and not future.done():
            future.set_result((message, fds))
        else:
            _closed(fds)

    async def _ask(
        self, key: str, message: dict[str, Any], fds: list[int], timeout_s: float
    ) -> tuple[dict[str, Any], list[int]]:
        if self.gone.is_set():
            raise TemplateGone("the template ended")
        future: asyncio.Future[tuple[dict[str, Any], list[int]]] = self._loop.create_future()
        self._answers[key] = future
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        data = json.dumps(message).encode()
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    self._sock.sendmsg([data], ancillary)
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.001)
                except OSError as error:
                    self.close()
                    raise TemplateGone(str(error)) from None
            return await future

    async def hello(self, timeout_s: float = 5.0) -> dict[str, Any]:
        """{loaded: what `load` answered | None, instances: [ids]}."""
        return (await self._ask("hello", {"op": "hello"}, [], timeout_s))[0]

    async def output(self, timeout_s: float = 5.0) -> int:
        """A file in memory for what the `load` that follows prints; the caller closes it. Raises TemplateGone."""
        _, got = await self._ask("output", {"op": "output"}, [], timeout_s)
        if len(got) != 1 or not _is_memory(got[0]):
            _closed(got)
            self.close()
            raise TemplateGone("the template sent no file for its output")
        return got[0]

    async def load(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        return (await self._ask("loaded", {"op": "load", **message}, [], timeout_s))[0]

    async def quiet(self) -> None:
        """The template closes this connection, so that it can be dumped."""
        await self._ask("quiet", {"op": "quiet"}, [], 5.0)
        async with asyncio.timeout(5.0):
            await self.gone.wait()

    async def fork(self, instance_id: str, fds: list[int], on_exit: Callable[[int], None]) -> int:
        """A pidfd of the new instance. `on_exit(wait status)` is called once, at its end. Raises ForkFailed,
        TemplateGone.
        """
        self._exits[instance_id] = on_exit
        try:
            message, got = await self._ask(
                f"fork {instance_id}", {"op": "fork", "instance": instance_id}, fds, FORK_TIMEOUT_S
            )
        except TimeoutError:
            self._exits.pop(instance_id, None)
            raise ForkFailed(f"the template did not fork within {FORK_TIMEOUT_S:g} s") from None
        if message.get("op") != "forked" or len(got) != 1:
            self._exits.pop(instance_id, None)
            _closed(got)
            raise ForkFailed(str(message.get("error", "the template answered with nonsense"))[:500])
        if not _is_pidfd(got[0]):
            os.close(got[0])
            raise ForkFailed("the template sent a descriptor that is no process")
        return got[0]

    def become(self, fds: list[int]) -> None:
        """The template itself becomes the one instance of its container; this connection ends."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        self._sock.sendmsg([json.dumps({"op": "become"}).encode()], ancillary)

    def leave(self) -> None:
        """Ask the template to end; its instances go on."""
        if not self.gone.is_set():
            with contextlib.suppress(OSError):  # one that does not read its words ends with its container
                self._sock.sendmsg([json.dumps({"op": "leave"}).encode()])


def _closed(fds: list[int]) -> list[int]:
    for fd in fds:
        os.close(fd)
    return []


def _is_memory(fd: int) -> bool:
    """Only a file in memory has seals: reading one never blocks, and shows nothing but what was written to it."""
    try:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return True


def _is_pidfd(fd: int) -> bool:
    """What a hostile template sends need not be what it says: only a pidfd can be waited for."""
    return "pidfd" in str(Path(f"/proc/self/fd/{fd}").readlink())
