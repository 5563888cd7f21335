"""One instance as the node sees it: sends invocations, collects what came of them, knows why it ended.

Not here: how it was made (`versions`), which invocation it gets (the pool), whether its answer is one (`answers`). The
contract is runtime.api.Instance.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson

from quilt_fn.errors import FunctionFailed, HookFailed, StartFailed
from quilt_fn.states import StartKind
from runtime import answers, frames
from runtime.api import Call, Failure, Outcome, VersionSpec
from runtime.guest import wire
from runtime.output import Output

READY_TIMEOUT_S = 30.0
STATUS_WAIT_S = 0.5
"""How long the exit status is waited for after the instance's socket closed; it comes from its parent inside."""
STREAM_HIGH, STREAM_LOW = 1 << 20, 1 << 18
_AT_HOOKS = {"stage": "after_restore"}
FRAME_COST = 256
"""What a waiting piece of a stream counts for beside its bytes: a flood of empty ones is held back too."""

End = Callable[[], Awaitable[int]]
"""Kill what runs in the instance's kit (or container) and take it away; how many of it the kernel killed for memory."""


class LiveInstance:
    """Made by `LiveInstance.create`, which returns when the instance said READY."""

    def __init__(self, instance_id: str, spec: VersionSpec, start: StartKind, end: End, gauge: int) -> None:
        self.instance_id = instance_id
        self.start = start
        self.start_ms = 0.0
        self.started_at = time.time()
        self.wants_request = False
        self.reusable = True
        self._spec = spec
        self._end = end
        self._gauge = gauge
        self._loop = asyncio.get_running_loop()
        self._reply: asyncio.Future[frames.Frame | None] | None = None
        self._stream: asyncio.Queue[frames.Frame | None] | None = None
        self._stream_over = True
        """Whether its last frame came: whatever comes then, nobody asked for."""
        self._stream_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._deadline: float | None = None
        """Of the invocation that runs, on the loop's clock."""
        self._timed_out = False
        self._status: asyncio.Future[int] = self._loop.create_future()
        self._closing: asyncio.Task[int] | None = None
        self._reason = ""
        self._gone = False
        self._callbacks: list[Callable[[str], None]] = []
        self._pidfd = -1
        self._protocol = frames.FrameProtocol(self._frame, self._lost)
        out, self._out_end = os.pipe2(os.O_CLOEXEC)
        err, self._err_end = os.pipe2(os.O_CLOEXEC)
        self._output = Output(self._loop, out, err)
        self._fd = -1

    @classmethod
    async def create(
        cls, instance_id: str, spec: VersionSpec, start: StartKind, end: End, gauge: int,
        fork: Callable[..., Awaitable[int]], config: dict[str, Any],
    ) -> LiveInstance:  # fmt: skip
        """`fork(data, stdout, stderr, on_exit)` hands the other ends over and gives a pidfd (or -1). Raises
        StartFailed and what it raises.
        """
        self = cls(instance_id, spec, start, end, gauge)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        reply = self._reply = self._loop.create_future()
        try:
            try:
                await frames.connect(ours, self._protocol)
                self._fd = ours.fileno()
                self._protocol.body_limit = spec.result_limit_bytes + (1 << 20)
                self._send(wire.CONFIG, orjson.dumps(config), b"")
                self._pidfd = await fork(theirs.fileno(), self._out_end, self._err_end, self._exited)
            finally:
                theirs.close()
                os.close(self._out_end)
                os.close(self._err_end)
            if self._pidfd >= 0:
                self._loop.add_reader(self._pidfd, self._process_ended)
            async with asyncio.timeout(READY_TIMEOUT_S):
                first = await reply
            if first is None or first[0] != wire.READY:
                raise await self._not_ready(first)
        except BaseException as error:
            await self.close(f"start failed: {error}")
            if isinstance(error, TimeoutError):
                raise self._no_start(f"the instance was not ready within {READY_TIMEOUT_S:g} s") from None
            raise
        self.wants_request = bool(first[1].get("context"))
        return self

    async def _not_ready(self, first: frames.Frame | None) -> StartFailed:
        if first is not None and first[0] == wire.FAIL:
            meta = first[1]
            text = f"an after_restore hook failed: {meta.get('type')}: {meta.get('message')}"[:4000]
            return HookFailed(text, details={**_AT_HOOKS, "traceback": str(meta.get("traceback"))[-32_000:]})
        failure, _ = await self._cause_of_death()
        said = self._output.err.take()[0].decode(errors="replace")[-4000:]
        return self._no_start(f"the instance ended before it was ready: {failure.message}", output=said)

    def _no_start(self, text: str, **details: str) -> StartFailed:
        """Before it is ready it does little but run its hooks: where it has some, they are what failed."""
        if self._spec.after_restore:
            return HookFailed(f"{text} (after_restore hooks were running)", details={**_AT_HOOKS, **details})
        return StartFailed(text, details=details)

    # --- frames ---------------------------------------------------------------------------------------------------

    def _send(self, kind: int, meta: bytes, body: bytes) -> None:
        transport = self._protocol.transport
        assert transport is not None
        head = wire.HEADER.pack(kind, len(meta), len(body)) + meta
        if len(body) <= 65536:
            whole = head + body
            # At once, not at the end of the loop's turn: the instance wakes up while the rest of the turn runs here.
            if self._fd >= 0 and not transport.is_closing() and transport.get_write_buffer_size() == 0:
                with contextlib.suppress(OSError):  # full, or it has ended: the transport waits, or finds that out
                    whole = whole[os.write(self._fd, whole) :]
            if whole:
                transport.write(whole)
        else:
            transport.write(head)
            transport.write(body)

    def _frame(self, kind: int, meta: dict[str, Any], body: bytes) -> None:
        if self._reply is not None:
            reply, self._reply = self._reply, None
            if kind == wire.RESULT and meta.get("stream"):
                self._stream = asyncio.Queue()
                self._stream_over = False
            if not reply.done():
                reply.set_result((kind, meta, body))
        elif self._stream is not None and not self._stream_over:
            self._stream_over = kind != wire.CHUNK
            self._stream.put_nowait((kind, {} if kind == wire.CHUNK else meta, body))
            self._stream_bytes += len(body) + FRAME_COST
            if self._stream_bytes > STREAM_HIGH and self._protocol.transport is not None:
                self._protocol.transport.pause_reading()
        else:
            self._spoil("it sent a frame that nobody asked for")

    def _lost(self) -> None:
        """The socket ended: whatever was waited for does not come."""
        self.reusable = False
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(None)
        if self._stream is not None:
            self._stream.put_nowait(None)
        self._spoil(self._reason or "it ended")

    def _exited(self, status: int) -> None:
        try:
            code = os.waitstatus_to_exitcode(status)
        except (ValueError, OverflowError):  # a hostile template's words
            return
        if not self._status.done():
            self._status.set_result(code)

    def _process_ended(self) -> None:
        """The kernel says that it is dead; a child of it may still hold the socket open."""
        self._close_pidfd()
        if self._protocol.transport is not None:
            self._protocol.transport.abort()

    def _close_pidfd(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    # --- invocations ----------------------------------------------------------------------------------------------

    async def invoke(self, call: Call) -> Outcome:
        if self._gone or not self.reusable or self._reply is not None:
            return Outcome(failure=Failure("INSTANCE_DIED", "InstanceDied", f"the instance has ended: {self._reason}"))
        reply: asyncio.Future[frames.Frame | None] = self._loop.create_future()
        self._reply = reply
        self._send(wire.INVOKE, _meta(call, self.wants_request), call.body)
        self._watch_time(self._loop.time() + max(0.0, call.deadline - time.time()))
        try:
            frame = await reply
        except asyncio.CancelledError:
            self._spoil("its invocation was cancelled")
            raise
        if frame is None:
            return await self._died()
        kind, meta, body = frame
        if kind == wire.RESULT:
            outcome = answers.result(meta, body)
            if meta.get("stream"):
                if outcome.failure is None:
                    outcome.stream = self._chunks(outcome)
                    return outcome
                self._stream = None
                self._spoil("its stream was refused")
        elif kind == wire.FAIL:
            outcome = Outcome(failure=self._failed(meta, body))
        else:
            self._spoil("it broke the protocol")
            outcome = Outcome(failure=Failure("INSTANCE_DIED", "ProtocolError", "the instance broke the protocol"))
        self._deadline = None
        self._add_output(outcome)
        return outcome

    def _failed(self, meta: dict[str, Any], body: bytes) -> Failure:
        if meta.get("type") in ("SystemExit", "KeyboardInterrupt", "MemoryError"):
            self._spoil(f"its handler raised {meta.get('type')}")
        return answers.failure(meta, body)

    def _add_output(self, outcome: Outcome) -> None:
        outcome.stdout, outcome.stderr, outcome.truncated = self._output.take()

    async def _chunks(self, outcome: Outcome) -> AsyncIterator[bytes]:
        assert self._stream is not None
        whole = False
        try:
            while True:
                frame = await self._stream.get()
                if frame is None:
                    died = await self._died()
                    outcome.failure, outcome.timed_out = died.failure, died.timed_out
                    outcome.exit_code = died.exit_code
                    break
                kind, meta, body = frame
                if kind == wire.CHUNK:
                    self._stream_bytes -= len(body) + FRAME_COST
                    if self._stream_bytes < STREAM_LOW and self._protocol.transport is not None:
                        self._protocol.transport.resume_reading()
                    yield body
                    continue
                if kind == wire.FAIL:
                    outcome.failure = self._failed(meta, body)
                whole = kind in (wire.END, wire.FAIL)
                break
        finally:
            self._stream = None
            self._stream_bytes = 0
            self._deadline = None
            if not whole:
                self._spoil("its stream was not read to the end")
            self._add_output(outcome)
        if outcome.failure is not None:
            raise FunctionFailed(outcome.failure.message)

    def _watch_time(self, deadline: float) -> None:
        """End the instance at `deadline`. A timer of an earlier invocation that fires before it is left to look again:
        one for each would cost more than all else that a short call needs here.
        """
        self._deadline = deadline
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._look_at_time)

    def _look_at_time(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self._loop.time() < self._deadline:
            self._watch_time(self._deadline)
            return
        self._timed_out = True
        self._spoil("its invocation ran over its time limit")

    async def _died(self) -> Outcome:
        self._deadline = None
        failure, code = await self._cause_of_death()
        outcome = Outcome(failure=failure, timed_out=self._timed_out, exit_code=code)
        self._add_output(outcome)
        return outcome

    async def _cause_of_death(self) -> tuple[Failure, int | None]:
        """Why it ended, from what the kernel counted and what its parent saw."""
        self._spoil("it broke the protocol")  # unless it is ending already
        assert self._closing is not None
        kills = await asyncio.shield(self._closing)
        if self._timed_out:
            return Failure(
                "INVOCATION_TIMEOUT", "InvocationTimeout", "the handler ran over its time limit and was ended"
            ), None
        code: int | None = None
        try:
            async with asyncio.timeout(STATUS_WAIT_S):
                code = await asyncio.shield(self._status)
        except TimeoutError:
            code = None
        if kills:
            text = f"it used more than its memory limit of {self._spec.memory_limit_mb} MB and was ended"
            return Failure("HANDLER_OUT_OF_MEMORY", "OutOfMemory", text), code
        how = (
            "was ended" if code is None else f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        )
        return Failure("INSTANCE_DIED", "InstanceDied", f"the instance {how} while it served the invocation"), code

    # --- the end --------------------------------------------------------------------------------------------------

    def _spoil(self, reason: str) -> None:
        """It can't serve again: end it, whatever it is doing."""
        self.reusable = False
        self._reason = self._reason or reason
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._closing is None:
            self._closing = self._loop.create_task(self._close(), name=f"end {self.instance_id}")

    async def _close(self) -> int:
        try:
            kills = await self._end()
        finally:
            self._close_pidfd()
            if self._protocol.transport is not None:
                self._protocol.transport.abort()
            self._gone = True
            for callback in self._callbacks:
                callback(self._reason)
            self._callbacks.clear()
            if self._gauge >= 0:
                os.close(self._gauge)
                self._gauge = -1
            # Whoever waits for the invocation takes the output before it is thrown away.
            self._loop.call_later(STATUS_WAIT_S + 0.1, self._close_pipes)
        return kills

    def _close_pipes(self) -> None:
        self._output.close()

    async def close(self, reason: str) -> None:
        self._spoil(reason)
        assert self._closing is not None
        await asyncio.wait([self._closing])

    def on_closed(self, callback: Callable[[str], None]) -> None:
        if self._gone:
            callback(self._reason)
        else:
            self._callbacks.append(callback)

    def memory_bytes(self) -> int | None:
        return None if self._gauge < 0 else int(os.pread(self._gauge, 32, 0))


def _meta(call: Call, wants_request: bool) -> bytes:
    if call.environment or (wants_request and call.request is not None):
        meta: dict[str, Any] = {
            "id": call.invocation_id,
            "kind": call.kind,
            "deadline": call.deadline,
            "attempt": call.attempt,
        }
        if call.environment:
            meta["env"] = dict(call.environment)
        if wants_request and call.request is not None:
            meta["req"] = call.request
        return orjson.dumps(meta)
    return (
        f'{{"id":"{call.invocation_id}","kind":"{call.kind}","deadline":{call.deadline!r},"attempt":{call.attempt}}}'
    ).encode()
