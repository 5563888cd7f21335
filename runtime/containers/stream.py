"""A command as a stream of frames: what it writes as it writes it, and its end.

The frames are dicts as API.md names them. Nothing is read ahead of who takes the frames, but for `AHEAD` pieces: a slow
reader slows the command. A reader that leaves (`aclose`) ends it.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from quilt_fn.errors import ContainerNotRunning, QuiltError, Unavailable
from runtime.containers.api import Command, CommandNotStarted, InitLink, Process
from runtime.containers.ends import MemoryKills, exit_reason
from runtime.containers.exec import end
from runtime.containers.pipes import Leftovers, Sink, Source

PIECE_BYTES = 32 * 1024
AHEAD = 4

Frame = dict[str, Any]
_Item = tuple[str, bytes] | None


async def frames(
    link: InitLink,
    memory: MemoryKills,
    container_id: str,
    command: Command,
    *,
    stdin: AsyncIterator[bytes],
    timeout_s: float | None,
    leftovers: Leftovers,
) -> AsyncIterator[Frame]:
    """`started`, then `stdout` and `stderr` in the order in which they were read, `timeout` where the time was over,
    `exit` last. Where the command could not be started: `error` and `exit` with 125, 126 or 127. Where the container
    went away: `error` alone. Raises ContainerNotRunning when it is gone before anything began.
    """
    began = time.perf_counter()
    kills_before, timed_out = memory.seen(), False
    try:
        process = await link.run(command)
    except CommandNotStarted as error:
        yield {"type": "error", "message": str(error)}
        yield _exit(error.exit_code, "not_started", began)
        return
    running = _Running(process, stdin)
    try:
        yield {"type": "started", "container_id": container_id, "pid": process.pid}
        deadline = None if timeout_s is None else began + timeout_s
        try:
            async for item in running.items(deadline):
                if item is None:
                    timed_out = True
                    message = f"the time limit of {timeout_s:g} s was over; the command was told to end"
                    yield {"type": "timeout", "elapsed_ms": _since(began), "message": message}
                else:
                    yield {"type": item[0], "data_b64": base64.b64encode(item[1]).decode()}
            assert running.code is not None
            for_memory = memory.explains(running.code, kills_before)
            yield _exit(running.code, exit_reason(running.code, for_memory, timed_out), began)
        except QuiltError as error:
            yield {"type": "error", "message": error.message}
    finally:
        await running.close(leftovers)


def _exit(code: int, reason: str, began: float) -> Frame:
    return {"type": "exit", "code": code, "exit_reason": reason, "elapsed_ms": _since(began)}


def _since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 3)


class _Running:
    """The tasks around one command: its stdin, its two outputs into one short queue, its end."""

    def __init__(self, process: Process, stdin: AsyncIterator[bytes]) -> None:
        assert process.stderr is not None
        self._process = process
        self.code: int | None = None
        self._sink = Sink(process.stdin)
        self._sources = {"stdout": Source(process.stdout), "stderr": Source(process.stderr)}
        self._read: deque[tuple[str, bytes]] = deque()
        self._room = asyncio.Event()
        self._changed = asyncio.Event()
        """A piece has come, a pump has ended, the command has, or could not be killed."""
        self._feeder = asyncio.create_task(self._feed(stdin), name="stream-stdin")
        self._pumps = [asyncio.create_task(self._pump(name), name=f"stream-{name}") for name in self._sources]
        self._waiter = asyncio.create_task(process.wait(), name="stream-wait")
        self._killer: asyncio.Task[int] | None = None
        for pump in self._pumps:
            pump.add_done_callback(self._wake)
        self._waiter.add_done_callback(self._wake)
        self._feeder.add_done_callback(self._wake)

    def _wake(self, _task: object = None) -> None:
        self._changed.set()

    async def items(self, deadline: float | None) -> AsyncIterator[_Item]:
        """The pieces; None once where the time was over. Ends with the command, `code` is set then."""
        ended = False
        while True:
            self._changed.clear()
            while self._read:
                item = self._read.popleft()
                self._room.set()
                yield item
            if self._feeder.done() and not self._feeder.cancelled() and (wrong := self._feeder.exception()):
                raise wrong
            if ended and not self._read and all(pump.done() for pump in self._pumps):
                break
            if self._waiter.done() and not ended:
                self.code = self._waiter.result()
                ended = True
                for source in self._sources.values():
                    source.finish()
                continue
            left = None if deadline is None or ended else deadline - time.perf_counter()
            if left is not None and left <= 0:
                deadline = None
                self._killer = asyncio.create_task(end(self._process), name="stream-end")
                self._killer.add_done_callback(self._wake)
                yield None
                continue
            if self._killer is not None and self._killer.done() and not ended:
                self._killer.result()  # it could not be killed: that is the stream's end
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()
        for pump in self._pumps:
            pump.result()

    async def close(self, leftovers: Leftovers) -> None:
        """Ends the command where it still runs."""
        for task in (self._feeder, *self._pumps):
            task.cancel()
        await asyncio.gather(self._feeder, *self._pumps, return_exceptions=True)
        self._sink.close()
        try:
            if not self._waiter.done():
                with suppress(ContainerNotRunning, Unavailable):
                    await (self._killer or end(self._process))
        finally:
            last = [self._waiter] if self._killer is None else [self._waiter, self._killer]
            for waiting in last:
                waiting.cancel()
            await asyncio.gather(*last, return_exceptions=True)
            for source in self._sources.values():
                leftovers.keep(source)

    async def _pump(self, name: str) -> None:
        while piece := await self._sources[name].read(PIECE_BYTES):
            while len(self._read) >= AHEAD:
                self._room.clear()
                await self._room.wait()
            self._read.append((name, piece))
            self._changed.set()

    async def _feed(self, stdin: AsyncIterator[bytes]) -> None:
        try:
            async for piece in stdin:
                if not await self._sink.write(piece):
                    return
        finally:
            self._sink.close()
