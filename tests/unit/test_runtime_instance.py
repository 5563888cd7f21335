"""LiveInstance against a guest that the test plays on the other end of the socket. No processes, no spawner."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quilt_fn.errors import FunctionFailed, HookFailed, StartFailed
from quilt_fn.states import StartKind
from runtime.api import Call, Failure, VersionSpec
from runtime.guest import wire
from runtime.guest.instance import Frames
from runtime.instance import FRAME_COST, STREAM_HIGH, LiveInstance

SPEC = VersionSpec("t", "fn_1", "hello", 1, "0" * 64, "app:handler")


class Guest:
    """The other end: what the template would have been handed."""

    def __init__(self, *first: tuple[int, dict[str, Any]]) -> None:
        self.first = first or ((wire.READY, {"context": True}),)
        self.ended = 0
        self.kills = 0

    async def fork(self, data: int, out: int, err: int, on_exit: Callable[[int], None]) -> int:
        self.sock = socket.socket(fileno=os.dup(data))
        self.out, self.err, self.on_exit = os.dup(out), os.dup(err), on_exit
        self.frames = Frames(self.sock)
        for kind, meta in self.first:
            self.frames.send(kind, meta)
        return -1

    async def end(self) -> int:
        self.ended += 1
        self.hang_up()
        return self.kills

    def hang_up(self) -> None:
        if self.sock.fileno() >= 0:
            self.sock.close()
            os.close(self.out)
            os.close(self.err)

    async def create(self) -> LiveInstance:
        return await LiveInstance.create(
            "ins_1", SPEC, StartKind.FORK, self.end, -1, self.fork, {"instance_id": "ins_1"}
        )

    async def next(self) -> tuple[int, dict[str, Any], bytes] | None:
        return await asyncio.to_thread(self.frames.read)


def descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


@pytest.fixture
async def guest() -> AsyncIterator[Guest]:
    fds = descriptors()
    found = Guest()
    yield found
    found.hang_up()
    assert len(descriptors() - fds) <= 3  # the pipes' reading ends are closed a moment later, by the loop


def call(seconds: float = 30.0) -> Call:
    return Call("inv_1", "json", b"{}", time.time() + seconds)


async def test_the_first_words_are_the_configuration_and_a_result_comes_with_its_output(guest: Guest) -> None:
    instance = await guest.create()
    assert instance.wants_request
    assert await guest.next() == (wire.CONFIG, {"instance_id": "ins_1"}, b"")
    task = asyncio.create_task(instance.invoke(call()))
    frame = await guest.next()
    assert frame is not None and frame[0] == wire.INVOKE and frame[2] == b"{}"
    os.write(guest.out, b"hello")
    os.write(guest.err, b"oops")
    guest.frames.send(wire.RESULT, {"status": 201, "headers": [["a", "b"]], "kind": "text"}, b"body")
    outcome = await task
    assert (outcome.status, outcome.headers, outcome.kind, outcome.body) == (201, [["a", "b"]], "text", b"body")
    assert (outcome.stdout, outcome.stderr, outcome.truncated, outcome.failure) == (b"hello", b"oops", False, None)
    assert instance.reusable
    await instance.close("done")


@pytest.mark.parametrize(
    ("meta", "code", "reusable"),
    [
        ({"code": "HANDLER_ERROR", "type": "ValueError", "message": "no"}, "HANDLER_ERROR", True),
        ({"code": "BAD_EVENT"}, "INVALID_REQUEST", True),
        ({"code": "INTERNAL_ERROR", "type": 3, "message": None}, "HANDLER_ERROR", True),
        ({"code": "HANDLER_ERROR", "type": "MemoryError"}, "HANDLER_OUT_OF_MEMORY", False),
        ({"code": "HANDLER_ERROR", "type": "SystemExit"}, "HANDLER_ERROR", False),
    ],
)
async def test_a_failure_is_the_functions_and_some_spoil_the_instance(
    guest: Guest, meta: dict[str, Any], code: str, reusable: bool
) -> None:
    instance = await guest.create()
    task = asyncio.create_task(instance.invoke(call()))
    guest.frames.send(wire.FAIL, meta)
    outcome = await task
    assert outcome.failure is not None and outcome.failure.code == code
    assert instance.reusable is reusable
    await instance.close("done")


@pytest.mark.parametrize("meta", [{"status": 700}, {"status": "200"}, {"kind": "html"}])
async def test_a_stream_with_no_response_before_it_is_a_failure_and_holds_nobody(
    guest: Guest, meta: dict[str, Any]
) -> None:
    instance = await guest.create()
    task = asyncio.create_task(instance.invoke(call()))
    guest.frames.send(wire.RESULT, meta | {"stream": True})
    outcome = await task
    assert outcome.failure is not None and outcome.failure.code == "RESULT_NOT_SERIALISABLE"
    assert outcome.stream is None
    assert not instance.reusable  # its pieces may still come
    await instance.close("done")
    assert guest.ended == 1


async def test_a_stream_comes_in_pieces_and_the_instance_serves_again(guest: Guest) -> None:
    instance = await guest.create()
    task = asyncio.create_task(instance.invoke(call()))
    for kind, meta, body in ((wire.RESULT, {"stream": True}, b""), (wire.CHUNK, {}, b"a"), (wire.CHUNK, {}, b"b"),
                             (wire.END, {}, b"")):  # fmt: skip
        guest.frames.send(kind, meta, body)
    outcome = await task
    assert outcome.stream is not None
    assert [piece async for piece in outcome.stream] == [b"a", b"b"]
    assert instance.reusable
    await instance.close("done")


async def test_a_stream_that_fails_raises_and_one_that_goes_on_after_its_end_spoils(guest: Guest) -> None:
    instance = await guest.create()
    task = asyncio.create_task(instance.invoke(call()))
    guest.frames.send(wire.RESULT, {"stream": True})
    guest.frames.send(wire.FAIL, {"code": "HANDLER_ERROR", "type": "E", "message": "broke", "traceback": "T"})
    guest.frames.send(wire.FAIL, {"code": "HANDLER_ERROR", "message": "again"})
    outcome = await task
    assert outcome.stream is not None
    with pytest.raises(FunctionFailed, match="broke"):
        async for _ in outcome.stream:
            pass
    assert outcome.failure == Failure("HANDLER_ERROR", "E", "broke", "T")
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    instance.on_closed(ended.set_result)
    assert "nobody asked for" in await ended
    assert not instance.reusable


async def test_a_stream_that_ends_with_an_exit_spoils_its_instance(guest: Guest) -> None:
    instance = await guest.create()
    task = asyncio.create_task(instance.invoke(call()))
    guest.frames.send(wire.RESULT, {"stream": True})
    guest.frames.send(wire.FAIL, {"code": "HANDLER_ERROR", "type": "SystemExit", "message": "out"})
    outcome = await task
    assert outcome.stream is not None
    with pytest.raises(FunctionFailed):
        await anext(outcome.stream)
    assert not instance.reusable


async def test_a_flood_of_empty_pieces_is_held_back(guest: Guest) -> None:
    instance = await guest.create()
    task = asyncio.create_task(instance.invoke(call()))
    guest.frames.send(wire.RESULT, {"stream": True})
    outcome = await task
    many = 2 * STREAM_HIGH // FRAME_COST
    flood = asyncio.get_running_loop().run_in_executor(
        None, lambda: [guest.frames.send(wire.CHUNK, {"x": "y"}) for _ in range(many)]
    )
    transport = instance._protocol.transport
    assert transport is not None
    while transport.is_reading():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0)
    assert instance._stream is not None and instance._stream.qsize() < many
    await instance.close("enough")
    await asyncio.wait([flood])
    assert flood.exception() is not None  # its socket was closed
    assert outcome.stream is not None
    await outcome.stream.aclose()  # type: ignore[attr-defined]


async def test_over_its_time_it_is_ended(guest: Guest) -> None:
    instance = await guest.create()
    outcome = await instance.invoke(call(-1))
    assert outcome.timed_out and outcome.failure is not None and outcome.failure.code == "INVOCATION_TIMEOUT"
    assert not instance.reusable and guest.ended == 1


@pytest.mark.parametrize(
    ("status", "kills", "code", "words"),
    [
        (signal.SIGSEGV, 0, "INSTANCE_DIED", "killed by signal 11"),
        (3 << 8, 0, "INSTANCE_DIED", "exited with code 3"),
        (signal.SIGKILL, 1, "HANDLER_OUT_OF_MEMORY", "256 MB"),
    ],
)
async def test_a_death_has_a_cause(guest: Guest, status: int, kills: int, code: str, words: str) -> None:
    instance = await guest.create()
    task = asyncio.create_task(instance.invoke(call()))
    await guest.next()
    await guest.next()
    guest.kills = kills
    guest.on_exit(1 << 70)  # a hostile template's words
    guest.on_exit(status)
    guest.hang_up()
    outcome = await task
    assert outcome.failure is not None and outcome.failure.code == code and words in outcome.failure.message
    again = await instance.invoke(call())
    assert again.failure is not None and again.failure.code == "INSTANCE_DIED"


async def test_a_cancelled_invocation_ends_it_and_everybody_is_told_once(guest: Guest) -> None:
    instance = await guest.create()
    told: list[str] = []
    instance.on_closed(told.append)
    task = asyncio.create_task(instance.invoke(call()))
    await guest.next()
    await guest.next()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await instance.close("later")
    instance.on_closed(told.append)
    assert told == ["its invocation was cancelled"] * 2 and guest.ended == 1


@pytest.mark.parametrize("first", [(wire.FAIL, {"code": "HOOK_FAILED", "type": "E", "message": "m"}), (wire.END, {})])
async def test_who_is_not_ready_is_ended(guest: Guest, first: tuple[int, dict[str, Any]]) -> None:
    guest.first = (first,)
    guest.kills = 1
    with pytest.raises(StartFailed):
        await asyncio.wait_for(guest.create(), 10)
    assert guest.ended == 1


async def test_who_fails_in_its_hooks_says_where(guest: Guest) -> None:
    guest.first = ((wire.FAIL, {"code": "HOOK_FAILED", "type": "E", "message": "m", "traceback": "T"}),)
    with pytest.raises(HookFailed, match="E: m") as raised:
        await guest.create()
    assert raised.value.details == {"stage": "after_restore", "traceback": "T"}


async def test_who_does_not_outlive_its_hooks_has_failed_in_them(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.test_runtime_instance.SPEC", replace(SPEC, after_restore=("app:hook",)))
    guest.first = ((wire.END, {}),)
    with pytest.raises(HookFailed) as raised:
        await guest.create()
    assert raised.value.details == {"stage": "after_restore", "output": ""}
