"""A command run to its end: what it wrote, up to a limit, how it ended, and how long that took.

Not here: streams (`stream`), terminals (`terminals`). The background children of a command survive it, and the answer
does not wait for them although they hold its stdout open.
"""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import dataclass

from quilt_fn.errors import ContainerNotRunning, Unavailable
from quilt_fn.output_bytes import Kept
from runtime.containers.api import Command, CommandNotStarted, InitLink, Process
from runtime.containers.ends import MemoryKills, exit_reason
from runtime.containers.pipes import PIECE_BYTES, Leftovers, Sink, Source, make_roomy

GRACE_S = 2.0
"""Between SIGTERM and SIGKILL."""
KILLED_WITHIN_S = 10.0
BEYOND_LIMIT_PAUSE_S = 0.005
"""A command that writes without end must not take the loop's whole time once nothing of it is kept."""


@dataclass(frozen=True, slots=True)
class Completed:
    """`exit_code` is 128 + signal where one ended the command; `exit_reason` as in model.container.ExecResult."""

    exit_code: int
    exit_reason: str
    stdout: bytes
    stderr: bytes
    execution_time_ms: float
    timed_out: bool
    truncated: bool


async def run_to_end(
    link: InitLink, memory: MemoryKills, command: Command, *, stdin: bytes, timeout_s: float, limit_bytes: int,
    leftovers: Leftovers,
) -> Completed:  # fmt: skip
    """Run `command` and wait for its end: SIGTERM to its process group after `timeout_s`, SIGKILL 2 s later.

    A command that could not be started is told as a shell does: its exit code 125, 126 or 127, the reason on stderr.
    Raises ContainerNotRunning when the container ends first. Cancelled, it ends the command.
    """
    began = time.perf_counter()
    kills_before = memory.seen()
    try:
        process = await link.run(command)
    except CommandNotStarted as error:
        took_ms = (time.perf_counter() - began) * 1000
        return Completed(error.exit_code, "not_started", b"", f"quilt: {error}\n".encode(), took_ms, False, False)
    assert process.stderr is not None
    sources = Source(process.stdout), Source(process.stderr)
    outputs = [_Output(source, limit_bytes) for source in sources]
    sink = Sink(process.stdin)
    feeder = asyncio.create_task(_feed(sink, stdin), name="exec-stdin")
    readers = [asyncio.create_task(output.gather(), name="exec-output") for output in outputs]
    try:
        code, timed_out = await _until(process, began + timeout_s)
        for source in sources:
            source.finish()
        await asyncio.gather(*readers)
    except asyncio.CancelledError:
        await kill_quietly(process, signal.SIGKILL)
        raise
    finally:
        for task in (feeder, *readers):
            task.cancel()
        await asyncio.gather(feeder, *readers, return_exceptions=True)
        sink.close()
        for source in sources:
            leftovers.keep(source)
    return Completed(
        code,
        exit_reason(code, memory.explains(code, kills_before), timed_out),
        bytes(outputs[0].kept.data),
        bytes(outputs[1].kept.data),
        (time.perf_counter() - began) * 1000,
        timed_out,
        any(output.kept.truncated for output in outputs),
    )


async def _until(process: Process, deadline: float) -> tuple[int, bool]:
    try:
        async with asyncio.timeout(max(0.0, deadline - time.perf_counter())):
            return await process.wait(), False
    except TimeoutError:
        return await end(process), True


async def end(process: Process) -> int:
    """SIGTERM to the process group, 2 s, SIGKILL; its exit code.

    Raises Unavailable where even that does not end it, and ContainerNotRunning where the container is paused: what was
    sent ends it when it is resumed.
    """
    for number, within_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, KILLED_WITHIN_S)):
        await kill_quietly(process, number)
        if process.frozen:
            await kill_quietly(process, signal.SIGKILL)
            raise ContainerNotRunning(
                f"the container was paused while process {process.pid} ran, and its time is over: it ends when the "
                "container is resumed",
                details={"state": "paused", "pid": process.pid},
                hint="Resume it.",
            )
        try:
            async with asyncio.timeout(within_s):
                return await process.wait()
        except TimeoutError:
            continue
    raise Unavailable(
        f"process {process.pid} did not end although it was killed; it may wait for a disk",
        details={"limit": "kill", "pid": process.pid},
    )


async def kill_quietly(process: Process, number: int) -> None:
    """A container that is gone has taken its commands along."""
    try:
        await process.kill(number)
    except (ContainerNotRunning, Unavailable):
        return


async def _feed(sink: Sink, data: bytes) -> None:
    await sink.write(data)
    sink.close()


class _Output:
    """What one stream of a command wrote, up to a limit; the rest is read, so that the command goes on, and dropped."""

    def __init__(self, source: Source, limit_bytes: int) -> None:
        self._source = source
        self.kept = Kept(limit_bytes)

    async def gather(self) -> None:
        while piece := await self._source.read():
            before = self.kept.truncated
            self.kept.add(piece)
            if self.kept.truncated:
                if not before:
                    make_roomy(self._source.fd)
                await asyncio.sleep(BEYOND_LIMIT_PAUSE_S)
            elif len(piece) == PIECE_BYTES:
                await asyncio.sleep(0)  # a full pipe is read without waiting; others have their turn too
