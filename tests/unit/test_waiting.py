"""The queue of a version's pool by itself: order, deadlines, and what those get whom no instance reaches."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from pool.slots import Slot
from pool.waiting import Queue, Waiter
from quilt_fn.errors import InternalError, InvocationTimeout, StartFailed
from quilt_fn.states import StartKind
from runtime.api import VersionSpec
from tests.fakes.clock import FakeClock
from tests.fakes.runtime import FakeInstance, FakeRuntime

SPEC = VersionSpec("default", "fn_0", "hello", 1, "b" * 64, "main:handler")


@dataclass
class House:
    clock: FakeClock = field(default_factory=FakeClock)
    left: int = 0

    def __post_init__(self) -> None:
        self.queue = Queue(self.clock, lambda waited_s: InvocationTimeout(f"{waited_s:g} s"), self._left)

    def _left(self) -> None:
        self.left += 1

    def wait(self, timeout_s: float = 30.0) -> Waiter:
        return self.queue.add(self.clock.now(), self.clock.wall() + timeout_s)


def slot() -> Slot:
    return Slot(FakeInstance(FakeRuntime(), SPEC, "ins_0", StartKind.FORK), 0.0)


async def test_the_first_comes_first_and_learns_how_long_it_waited() -> None:
    house = House()
    first, second = house.wait(), house.wait()
    house.clock.advance(0.05)
    given = slot()
    house.queue.hand_over(given, StartKind.FORK, 30.0)
    turn = first.turn.result()
    assert turn.slot is given and turn.start is StartKind.FORK
    assert (round(turn.queue_ms, 3), turn.start_ms) == (20.0, 30.0)
    house.queue.hand_over(given, StartKind.RESTORE, 4000.0)
    turn = second.turn.result()
    assert (turn.queue_ms, round(turn.start_ms, 3)) == (0.0, 50.0), "it waited for a part of that start only"
    assert house.queue.count == 0
    with pytest.raises(InternalError):
        house.queue.hand_over(given, StartKind.WARM, 0.0)


async def test_each_has_a_deadline_of_its_own_on_one_timer() -> None:
    house = House()
    late, early, latest = house.wait(20), house.wait(10), house.wait(30)
    house.clock.advance(10)
    assert isinstance(early.turn.exception(), InvocationTimeout)
    assert (late.turn.done(), house.queue.count, house.left) == (False, 2, 1)
    assert house.queue.first() is late
    house.clock.advance(10)
    assert str(late.turn.exception()) == "20 s"
    assert (latest.turn.done(), house.queue.count, house.left) == (False, 1, 2)
    house.queue.hand_over(slot(), StartKind.WARM, 0.0)
    house.clock.advance(10)
    assert latest.turn.result().start is StartKind.WARM


async def test_each_gets_an_error_of_its_own_and_no_timer_is_left() -> None:
    house = House()
    waiters = [house.wait(), house.wait()]
    error = StartFailed("no", details={"a": 1}, retry_after=2)
    house.queue.end(error)
    raised = [waiter.turn.exception() for waiter in waiters]
    assert all(isinstance(each, StartFailed) and each.details == {"a": 1} for each in raised)
    assert len({id(each) for each in (error, *raised)}) == 3
    assert (house.queue.count, house.clock.pending) == (0, 0)
