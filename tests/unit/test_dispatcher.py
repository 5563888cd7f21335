"""A version's pool on the fake runtime and a clock that stands still: who gets which instance, and when."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from pool.dispatcher import VersionPool
from pool.executor import RuntimeExecutor
from pool.slots import Limits, Slot
from pool.stats import NodeStats
from pool.waiting import Waiter
from quilt_fn.errors import FunctionBroken, HookFailed, InvocationTimeout, QueueFull, StartFailed
from quilt_fn.states import StartKind
from runtime.api import VersionSpec
from tests.fakes.clock import FakeClock
from tests.fakes.runtime import FakeInstance, FakeRuntime

SPEC = VersionSpec("default", "fn_0", "hello", 1, "b" * 64, "main:handler")


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


@dataclass
class House:
    """A pool with its surroundings."""

    limits: Limits = field(default_factory=Limits)
    opened: bool = True

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.runtime = FakeRuntime(self.clock.wall)
        self.executor = RuntimeExecutor(self.runtime, self.clock, NodeStats())
        self.pool = VersionPool(SPEC, self.limits, self.executor, self.clock, opened=self.opened)

    def wait(self, timeout_s: float = 30.0) -> Waiter:
        return self.pool.wait(self.clock.at + timeout_s)

    async def up(self) -> Slot:
        """One instance that has come up for a waiter."""
        waiter = self.wait()
        await settle()
        return waiter.turn.result().slot


async def test_an_idle_instance_is_taken_at_once_newest_first() -> None:
    house = House()
    first, second = await house.up(), await house.up()
    house.pool.release(first, 0.001)
    house.pool.release(second, 0.001)
    assert house.pool.take() is second
    assert house.pool.take() is first
    assert house.pool.take() is None


async def test_waiters_are_served_in_order_by_what_is_freed() -> None:
    house = House(Limits(max=1))
    slot = await house.up()
    waiters = [house.wait() for _ in range(3)]
    for waiter in waiters:
        house.clock.advance(1)
        house.pool.release(slot, 1)
        turn = waiter.turn.result()
        assert (turn.slot, turn.start, turn.start_ms) == (slot, StartKind.WARM, 0.0)
    assert [waiter.turn.result().queue_ms for waiter in waiters] == pytest.approx([1000, 2000, 3000])


async def test_who_an_instance_was_started_for_reports_its_start() -> None:
    house = House()
    house.runtime.hold_starts()
    waiter = house.wait()
    await settle()
    house.clock.advance(0.004)
    house.runtime.release_starts()
    await settle()
    turn = waiter.turn.result()
    assert turn.start is StartKind.FORK
    assert (turn.start_ms, turn.queue_ms) == pytest.approx((4, 0))


async def test_an_instance_that_comes_up_when_nobody_waits_is_idle_and_then_warm() -> None:
    house = House(Limits(max=2))
    slot = await house.up()
    house.runtime.hold_starts()
    waiter = house.wait()
    await settle()
    house.pool.release(slot, 1)
    assert waiter.turn.result().start is StartKind.WARM
    house.runtime.release_starts()
    await settle()
    assert len(house.pool.idle) == 1


async def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    house = House(Limits(max=1, max_queue=2))
    await house.up()
    house.wait()
    house.wait()
    with pytest.raises(QueueFull) as caught:
        house.wait()
    assert caught.value.retry_after == 2


async def test_max_queue_zero_still_starts_instances() -> None:
    house = House(Limits(max=2, max_queue=0))
    await house.up()
    await house.up()
    with pytest.raises(QueueFull):
        house.wait()


async def test_a_deadline_in_the_queue_names_the_limit() -> None:
    house = House(Limits(max=1))
    slot = await house.up()
    late, patient = house.wait(1), house.wait(60)
    house.clock.advance(1)
    with pytest.raises(InvocationTimeout) as caught:
        late.turn.result()
    assert caught.value.details is not None
    assert caught.value.details["limit"] == "queue"
    house.pool.release(slot, 1)
    assert patient.turn.result().slot is slot
    assert house.pool.queued == 0


async def test_starts_that_fail_are_tried_with_growing_pauses_and_then_reported() -> None:
    house = House()
    house.runtime.fail_all_starts("no cgroup")
    waiter = house.wait()
    await settle()
    assert len(house.runtime.starts) == 1
    await settle()
    assert len(house.runtime.starts) == 1
    for pause_s, tries in ((0.1, 2), (0.2, 3)):
        house.clock.advance(pause_s)
        await settle()
        assert len(house.runtime.starts) == tries
    with pytest.raises(StartFailed, match="no cgroup") as caught:
        waiter.turn.result()
    assert caught.value.retry_after == pytest.approx(0.4)
    with pytest.raises(StartFailed):
        house.wait()
    assert len(house.runtime.starts) == 3

    house.clock.advance(0.4)
    house.runtime.fail_all_starts(None)
    waiter = house.wait()
    await settle()
    assert waiter.turn.result().start is StartKind.FORK
    assert house.pool.start_failures == 0


async def test_a_hook_that_fails_is_told_as_such_with_its_traceback() -> None:
    house = House()
    details = {"stage": "after_restore", "traceback": "T", "else": 1}
    house.runtime.fail_all_starts(HookFailed("a hook failed", details=details))
    waiter = house.wait()
    for _ in range(3):
        await settle()
        house.clock.advance(1)
    with pytest.raises(HookFailed) as caught:
        waiter.turn.result()
    told = caught.value.details
    assert told == {"stage": "after_restore", "traceback": "T", "reason": "a hook failed", "attempts": 3}


async def test_failures_do_not_touch_waiters_that_a_busy_instance_will_serve() -> None:
    house = House()
    slot = await house.up()
    house.runtime.fail_all_starts("no memory")
    waiter = house.wait()
    for _ in range(5):
        await settle()
        house.clock.advance(5)
    assert not waiter.turn.done()
    house.pool.release(slot, 1)
    assert waiter.turn.result().slot is slot


async def test_an_instance_that_may_not_serve_again_is_ended_and_replaced_for_who_waits() -> None:
    house = House(Limits(max=1))
    slot = await house.up()
    waiter = house.wait()
    assert isinstance(slot.instance, FakeInstance)
    slot.instance.die("timeout")
    house.pool.release(slot, 1)
    await settle()
    assert waiter.turn.result().slot is not slot


async def test_an_idle_instance_that_dies_is_gone_and_min_is_made_whole() -> None:
    house = House(Limits(min=1))
    house.pool.consider()
    await settle()
    house.runtime.instances[0].die("killed")
    await settle()
    assert len(house.pool.idle) == 1
    assert house.runtime.instances[1].closed is None


async def test_recycling_by_count_and_one_shot() -> None:
    for limits in (Limits(recycle_after_invocations=1), Limits(one_shot=True)):
        house = House(limits)
        slot = await house.up()
        house.pool.release(slot, 1)
        await settle()
        assert house.runtime.instances[0].closed is not None
        assert house.pool.is_empty


async def test_the_buffer_is_filled_up_when_one_is_taken() -> None:
    house = House(Limits(buffer=1))
    house.pool.consider()
    await settle()
    assert house.pool.take() is not None
    await settle()
    assert len(house.pool.idle) == 1


async def test_waiters_wait_for_a_pool_to_open_and_fail_with_what_ends_it() -> None:
    house = House(opened=False)
    waiter, other = house.wait(), house.wait()
    await settle()
    assert house.runtime.starts == []
    house.pool.open()
    await settle()
    assert waiter.turn.done()
    assert other.turn.done()

    house = House(opened=False)
    waiter = house.wait()
    house.pool.end(FunctionBroken("no module named nothing"))
    with pytest.raises(FunctionBroken):
        waiter.turn.result()
    with pytest.raises(FunctionBroken):
        house.wait()


async def test_draining_serves_who_waits_and_then_is_empty() -> None:
    house = House(Limits(max=1, min=1))
    slot = await house.up()
    waiter = house.wait()
    house.pool.drain()
    drained = asyncio.create_task(house.pool.drained())
    house.pool.release(slot, 1)
    house.pool.release(waiter.turn.result().slot, 1)
    await drained
    assert house.runtime.live == {}


async def test_a_start_that_comes_up_after_the_end_is_ended() -> None:
    house = House()
    house.runtime.hold_starts()
    waiter = house.wait()
    await settle()
    house.pool.end(FunctionBroken("gone"))
    house.runtime.release_starts()
    await settle()
    assert isinstance(waiter.turn.exception(), FunctionBroken)
    assert house.runtime.live == {}
    assert house.pool.is_empty
