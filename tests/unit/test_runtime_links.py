"""The node's ends of its sockets, and the stock of kits: against a template and a spawner that the test plays."""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from quilt_fn.errors import SpawnerError
from runtime.kits import KitStock
from runtime.spawner import protocol
from runtime.spawner_client import SpawnerClient, SpawnerFailed
from runtime.template_link import ForkFailed, TemplateGone, TemplateLink

Message = dict[str, Any]


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def null() -> int:
    return os.open("/dev/null", os.O_RDONLY)


def say(sock: socket.socket, message: object, fds: int = 0) -> None:
    sent = [os.pidfd_open(os.getpid()) for _ in range(fds)]
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", sent))] if fds else []
    sock.sendmsg([message if isinstance(message, bytes) else json.dumps(message).encode()], ancillary)
    protocol.close(sent)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


# --- template -------------------------------------------------------------------------------------------------------


class Played:
    def __init__(self) -> None:
        ours, self.sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link = TemplateLink(ours.detach())

    async def heard(self) -> Message:
        return cast(Message, json.loads(await asyncio.to_thread(self.sock.recv, 65536)))


@pytest.fixture
async def template() -> Any:
    before = descriptors()
    played = Played()
    yield played
    played.link.close()
    played.sock.close()
    assert len(descriptors() - before) == 0


async def test_only_a_file_in_memory_is_taken_for_output(template: Played) -> None:
    task = asyncio.create_task(template.link.output())
    assert await template.heard() == {"op": "output"}
    memory = os.memfd_create("output")
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory]))]
    template.sock.sendmsg([b'{"op": "output"}'], ancillary)
    got = await task
    assert os.fstat(got).st_ino == os.fstat(memory).st_ino
    protocol.close([got, memory])
    task = asyncio.create_task(template.link.output())
    await template.heard()
    say(template.sock, {"op": "output"}, fds=1)
    with pytest.raises(TemplateGone):
        await task


async def test_a_fork_gives_a_descriptor_and_later_its_end(template: Played) -> None:
    statuses: list[int] = []
    task = asyncio.create_task(template.link.fork("ins_1", [], statuses.append))
    assert await template.heard() == {"op": "fork", "instance": "ins_1"}
    say(template.sock, {"op": "forked", "instance": "ins_1"}, fds=1)
    os.close(await task)
    for _ in range(2):
        say(template.sock, {"op": "exited", "instance": "ins_1", "status": 9})
    say(template.sock, {"op": "exited", "instance": "ins_other", "status": 9})
    await until(lambda: statuses)
    hello = asyncio.create_task(template.link.hello())
    say(template.sock, {"op": "hello", "loaded": None})
    await hello
    assert statuses == [9]


@pytest.mark.parametrize(
    ("answer", "fds"),
    [({"op": "fork_failed", "instance": "ins_1", "error": "no room"}, 0), ({"op": "forked", "instance": "ins_1"}, 0),
     ({"op": "forked", "instance": "ins_1"}, 3)],
)  # fmt: skip
async def test_a_fork_that_fails_leaves_no_descriptor(template: Played, answer: Message, fds: int) -> None:
    task = asyncio.create_task(template.link.fork("ins_1", [], lambda _: None))
    await template.heard()
    say(template.sock, answer, fds)
    with pytest.raises(ForkFailed):
        await task


@pytest.mark.parametrize(
    "words", [b"{", b"[]", b"7", b"\xff", b'{"op":"exited","status":"x"}', b'{"op":"exited","status":1e999}',
              b"[" * 50_000, b'{"op":{}}', b'{"op":"forked","instance":"nobody"}'],
)  # fmt: skip
async def test_nonsense_is_passed_over_and_its_descriptors_closed(template: Played, words: bytes) -> None:
    say(template.sock, words, fds=2)
    hello = asyncio.create_task(template.link.hello())
    await template.heard()
    say(template.sock, {"op": "hello", "loaded": None}, fds=3)
    assert (await hello)["loaded"] is None


async def test_all_who_wait_are_told_that_it_has_gone(template: Played) -> None:
    gone: list[int] = []
    template.link.on_gone = lambda: gone.append(1)
    tasks = [asyncio.create_task(template.link.fork(f"ins_{n}", [], lambda _: None)) for n in range(3)]
    await template.heard()
    template.sock.close()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, TemplateGone)
    with pytest.raises(TemplateGone):
        await template.link.hello()
    template.link.leave()
    assert gone == [1]


async def test_a_template_that_does_not_read_can_be_left(template: Played) -> None:
    template.link._sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            template.link._sock.send(b"x" * 1000)
    template.link.leave()


async def test_a_flood_leaves_the_loop_its_turns(template: Played) -> None:
    template.sock.setblocking(False)
    try:
        while True:
            say(template.sock, {"op": "noise"})
    except BlockingIOError:
        pass
    seen: list[int] = []
    arrived = template.link._arrived
    template.link._arrived = lambda data, fds: (seen.append(1), arrived(data, fds))[1]  # type: ignore[method-assign]
    await until(lambda: seen)
    assert len(seen) <= 16


# --- spawner --------------------------------------------------------------------------------------------------------


class Spawner:
    """A server on a SEQPACKET socket; `heard` gives what came."""

    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.listener.settimeout(20)
        self.client = SpawnerClient(path)
        self.sock: socket.socket | None = None

    async def accept(self) -> Message:
        self.sock, _ = await asyncio.to_thread(self.listener.accept)
        self.sock.settimeout(20)
        return await self.heard()

    async def heard(self) -> Message:
        assert self.sock is not None
        message, fds = await asyncio.to_thread(protocol.receive, self.sock)
        protocol.close(fds)
        assert message is not None
        return message

    def answer(self, message: Message, fds: int = 0) -> None:
        assert self.sock is not None
        say(self.sock, message, fds)


@pytest.fixture
async def spawner(tmp_path: Path) -> Any:
    await asyncio.to_thread(int)  # the thread's own descriptors, if any
    before = descriptors()
    played = Spawner(tmp_path / "s")
    start = asyncio.create_task(played.client.start())
    assert await played.accept() == {"id": 0, "op": "keep", "kits": []}
    await start
    yield played
    await played.client.close()
    if played.sock is not None:
        played.sock.close()
    played.listener.close()
    assert not descriptors() - before


async def test_answers_find_their_requests_in_any_order(spawner: Spawner) -> None:
    said: list[str] = []
    tasks = [asyncio.create_task(spawner.client.request(f"op{n}", progress=said.append)) for n in range(3)]
    asked = [await spawner.heard() for _ in range(3)]
    spawner.answer({"id": asked[1]["id"], "progress": "half"})
    for message in reversed(asked):
        spawner.answer({"id": message["id"], "ok": True, "was": message["op"]}, fds=1)
    for number, (answer, fds) in enumerate(await asyncio.gather(*tasks)):
        assert answer["was"] == f"op{number}" and len(fds) == 1
        protocol.close(fds)
    assert said == ["half"]


async def test_a_refusal_carries_its_kind(spawner: Spawner) -> None:
    task = asyncio.create_task(spawner.client.request("x"))
    number = (await spawner.heard())["id"]
    spawner.answer({"id": number, "ok": False, "error": "no", "kind": "absent", "details": {"a": 1}})
    with pytest.raises(SpawnerFailed) as caught:
        await task
    assert (caught.value.kind, caught.value.details) == ("absent", {"a": 1})


async def test_descriptors_of_late_answers_are_closed(spawner: Spawner) -> None:
    with pytest.raises(SpawnerError, match="did not answer"):
        await spawner.client.request("slow", timeout_s=0.01)
    spawner.answer({"id": (await spawner.heard())["id"], "ok": True}, fds=4)
    task = asyncio.create_task(spawner.client.request("cancelled"))
    number = (await spawner.heard())["id"]
    spawner.answer({"id": number, "ok": True}, fds=4)
    spawner.client._read()  # the answer and the cancellation in one turn
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_new_spawner_is_told_the_kits_and_gets_what_waited(spawner: Spawner) -> None:
    lost = asyncio.create_task(spawner.client.request("lost"))
    await spawner.heard()
    assert spawner.sock is not None
    spawner.client.kits = {"ins_b", "ins_a"}
    spawner.sock.close()
    with pytest.raises(SpawnerError, match="went away"):
        await lost
    waits = asyncio.create_task(spawner.client.request("waits"))
    assert await spawner.accept() == {"id": 0, "op": "keep", "kits": ["ins_a", "ins_b"]}
    message = await spawner.heard()
    spawner.answer({"id": message["id"], "ok": True})
    assert (await waits)[0]["ok"] and message["op"] == "waits"


async def test_a_message_that_is_too_long_is_an_error_here(spawner: Spawner) -> None:
    with pytest.raises(SpawnerError, match="limit"):
        await spawner.client.request("x", text="y" * 70_000)


async def test_no_spawner_is_said_so(tmp_path: Path) -> None:
    client = SpawnerClient(tmp_path / "none")
    with pytest.raises(SpawnerError, match="no spawner answers"):
        await client.start(timeout_s=0.01)
    await client.close()


# --- kits -----------------------------------------------------------------------------------------------------------


class Maker:
    """What KitStock uses of a SpawnerClient."""

    def __init__(self) -> None:
        self.kits: set[str] = set()
        self.connected = True
        self.batches: list[int] = []
        self.ended: list[str] = []
        self.fails = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def request(self, op: str, **fields: Any) -> tuple[Message, list[int]]:
        if op == "end":
            self.ended.append(fields["kit"])
            return {"oom_kills": 0}, []
        self.batches.append(len(fields["kits"]))
        await self.gate.wait()
        if self.fails:
            self.fails -= 1
            raise SpawnerError("no room")
        return {"doors": 1}, [null() for _ in range(3 * len(fields["kits"]))]


@pytest.fixture
def maker() -> Iterator[Maker]:
    before = len(descriptors())
    found = Maker()
    yield found
    assert len(descriptors()) == before and not found.kits


async def stock_of(maker: Maker, wanted: int) -> KitStock:
    return KitStock(cast(SpawnerClient, maker), "snp_1", {}, wanted)


async def give_back(maker: Maker, *kits: Any) -> None:
    for kit in kits:
        kit.close_handed_over()
        os.close(kit.gauge)
        maker.kits.discard(kit.kit_id)


async def test_all_who_ask_in_one_turn_share_batches(maker: Maker) -> None:
    stock = await stock_of(maker, 0)
    kits = await asyncio.gather(*(stock.take() for _ in range(11)))
    assert maker.batches == [8, 3] and len({k.kit_id for k in kits}) == 11
    await give_back(maker, *kits)
    await stock.close()


async def test_the_stock_is_filled_used_and_given_back(maker: Maker) -> None:
    stock = await stock_of(maker, 3)
    stock.fill()
    stock.fill()
    await until(lambda: len(stock._ready) == 3)
    kit = await stock.take()
    assert maker.batches == [3]
    await give_back(maker, kit)
    await stock.close()
    await stock.close()
    stock.fill()
    assert len(maker.ended) == 2 and maker.batches == [3]


async def test_a_failure_reaches_who_waits_also_behind_one_who_left(maker: Maker) -> None:
    stock = await stock_of(maker, 0)
    maker.gate.clear()
    maker.fails = 2
    left, waits = asyncio.create_task(stock.take()), asyncio.create_task(stock.take())
    await until(lambda: maker.batches)
    left.cancel()
    third = asyncio.create_task(stock.take())
    await until(lambda: len(stock._waiters) == 3)
    maker.gate.set()
    for task in (waits, third):
        with pytest.raises(SpawnerError):
            await asyncio.wait_for(task, 20)
    await stock.close()


async def test_who_is_cancelled_leaves_the_kit_in_stock(maker: Maker) -> None:
    stock = await stock_of(maker, 0)
    maker.gate.clear()
    task = asyncio.create_task(stock.take())
    await until(lambda: maker.batches)
    task.cancel()
    maker.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: stock._ready)
    await stock.close()
    assert len(maker.ended) == 1


async def test_a_descriptor_that_is_no_process_is_a_failed_fork(template: Played) -> None:
    task = asyncio.create_task(template.link.fork("ins_1", [], lambda _: None))
    await template.heard()
    fd = null()
    answer = json.dumps({"op": "forked", "instance": "ins_1"}).encode()
    template.sock.sendmsg([answer], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    os.close(fd)
    with pytest.raises(ForkFailed, match="no process"):
        await task


async def test_a_stock_that_was_empty_is_filled_after_the_first_take(maker: Maker) -> None:
    stock = await stock_of(maker, 2)
    kit = await stock.take()
    await until(lambda: len(stock._ready) == 2)
    await give_back(maker, kit)
    await stock.close()


async def test_a_kit_of_a_spawner_that_is_away_is_left_to_the_next_one(maker: Maker) -> None:
    stock = await stock_of(maker, 1)
    stock.fill()
    await until(lambda: len(stock._ready) == 1)
    maker.connected = False
    await stock.close()
    assert maker.ended == [] and not maker.kits
