"""One async implementation, called both ways, from threads, loops and a fork."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator

import pytest

from quilt_fn import mapping, twins
from quilt_fn.twins import both, both_items


class Thing:
    def __init__(self) -> None:
        self.closed = 0
        self.threads: set[str] = set()

    @both
    async def double(self, value: int) -> int:
        """Twice it."""
        self.threads.add(threading.current_thread().name)
        await asyncio.sleep(0)
        if value < 0:
            raise ValueError(value)
        return 2 * value

    @both
    async def four_times(self, value: int) -> int:
        return await self.double.aio(await self.double.aio(value))

    @both
    async def wrong(self) -> int:
        return self.double(1)

    @both
    async def forever(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.closed += 1

    @both_items
    async def count(self, upto: int) -> AsyncGenerator[int, None]:
        try:
            for number in range(upto):
                yield number
        finally:
            self.closed += 1


def test_both_ways_give_the_same() -> None:
    thing = Thing()
    assert thing.double(4) == 8 and thing.four_times(2) == 8

    async def main() -> None:
        assert await thing.double.aio(4) == 8
        assert [n async for n in thing.count.aio(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="-1"):
            await thing.double.aio(-1)

    asyncio.run(main())
    with pytest.raises(ValueError, match="-1"):
        thing.double(-1)
    assert list(thing.count(3)) == [0, 1, 2]
    assert thing.threads == {"quilt"}
    assert thing.double.__doc__ == "Twice it." and isinstance(Thing.double, both)


def test_an_iterator_that_is_left_early_is_closed() -> None:
    thing = Thing()
    items = thing.count(10)
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert thing.closed == 1


ABANDONED = """
import asyncio
from contextlib import asynccontextmanager
from quilt_fn.twins import both_items

@asynccontextmanager
async def connection():
    try:
        yield
    finally:
        await asyncio.sleep(0.01)
        print("closed", flush=True)

async def lines():
    async with connection():
        while True:
            yield 1

class Log:
    @both_items
    async def follow(self):
        async for line in lines():
            yield line

kept = iter(Log().follow())
print(next(kept))
kept_too = [kept]
kept_too.append(kept_too)
"""


def test_an_iterator_that_nobody_closed_does_not_hold_up_the_interpreters_end() -> None:
    done = subprocess.run([sys.executable, "-c", ABANDONED], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\nclosed\n", "")


def test_waiting_for_oneself_is_refused_not_a_deadlock() -> None:
    with pytest.raises(RuntimeError, match=r"\.aio"):
        Thing().wrong()


async def test_cancelling_the_awaiting_task_cancels_the_work() -> None:
    thing = Thing()
    task = asyncio.create_task(thing.forever.aio())
    await asyncio.sleep(0)
    await thing.double.aio(1)  # the background loop has taken up what came before
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await thing.double.aio(1)
    assert thing.closed == 1


def test_a_forked_child_has_a_loop_of_its_own() -> None:
    thing = Thing()
    assert thing.double(1) == 2
    pid = os.fork()
    if pid == 0:
        os._exit(0 if thing.double(21) == 42 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert thing.double(1) == 2


def test_after_stop_a_new_loop_is_made() -> None:
    assert Thing().double(1) == 2
    twins.background.stop()
    assert Thing().double(1) == 2


class Calls:
    def __init__(self) -> None:
        self.gates: dict[int, asyncio.Event] = {}
        self.now = self.most = 0
        self.full = asyncio.Event()
        self.full_at = 0

    async def held(self, item: int) -> int:
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == self.full_at:
            self.full.set()
        try:
            await self.gates.setdefault(item, asyncio.Event()).wait()
        finally:
            self.now -= 1
        if item == 13:
            raise ValueError(item)
        return item

    def open(self, *items: int) -> None:
        for item in items:
            self.gates.setdefault(item, asyncio.Event()).set()


async def collect(calls: Calls, items: object, **how: object) -> list[object]:
    options = {"limit": 2, "ordered": True, "return_exceptions": False} | how
    return [result async for result in mapping.bounded(items, calls.held, **options)]  # type: ignore[arg-type, type-var]


async def test_map_keeps_the_order_and_the_bound() -> None:
    calls = Calls()
    items = [n for n in range(20) if n != 13]
    calls.full_at = 3
    task = asyncio.create_task(collect(calls, items, limit=3))
    await calls.full.wait()
    calls.open(*reversed(items))
    assert await task == items
    assert calls.most == 3
    assert await collect(calls, (n for n in range(5))) == [0, 1, 2, 3, 4]
    assert await collect(calls, []) == []


async def test_map_as_completed() -> None:
    calls = Calls()
    calls.open(1)
    results = mapping.bounded([0, 1, 2], calls.held, limit=2, ordered=False, return_exceptions=False)
    assert await anext(results) == 1
    calls.open(2)
    assert await anext(results) == 2
    calls.open(0)
    assert [n async for n in results] == [0]


async def test_map_raises_and_cancels_the_rest_or_returns() -> None:
    calls = Calls()
    calls.open(13)
    with pytest.raises(ValueError, match="13"):
        await collect(calls, [13, 1])
    assert calls.now == 0
    calls.open(1)
    found = await collect(calls, [1, 13, 1], return_exceptions=True)
    assert found[0] == found[2] == 1 and isinstance(found[1], ValueError)


async def test_map_that_is_left_early_leaves_no_call_behind() -> None:
    calls = Calls()
    calls.open(0)
    results = mapping.bounded(iter(range(10**9)), calls.held, limit=3, ordered=True, return_exceptions=False)
    assert await anext(results) == 0
    await results.aclose()
    assert calls.now == 0


async def test_a_slow_source_does_not_hold_back_results() -> None:
    calls = Calls()
    calls.open(1, 2)
    gate = threading.Event()

    def source() -> object:
        yield 1
        assert gate.wait(30)
        yield 2

    results = mapping.bounded(source(), calls.held, limit=5, ordered=True, return_exceptions=False)  # type: ignore[arg-type, type-var]
    assert await anext(results) == 1
    gate.set()
    assert [n async for n in results] == [2]
