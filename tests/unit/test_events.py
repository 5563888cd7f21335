"""The log of events: numbers, filters, tenants, resuming, gaps, and listeners that are too slow."""

from __future__ import annotations

import pytest

from pool import events as module
from pool.events import BEHIND, INCARNATION_SHIFT, KEPT, LISTENERS, Events
from quilt_fn.errors import LimitReached
from tests.fakes.clock import FakeClock

NOW = 0.0


def events(incarnation: int = 1) -> Events:
    made = Events(FakeClock())
    made.incarnation = incarnation
    return made


async def drained(listener: module.Listener) -> list[tuple[int | None, str]]:
    found = []
    while (event := await listener.next(NOW)) is not None:
        found.append((event.number, event.kind))
    return found


async def test_a_listener_hears_what_comes_after_it_and_only_its_tenants() -> None:
    log = events()
    log.publish("t1", "early", {})
    listener = log.listen("t1", {})
    assert log.listened("t1") and not log.listened("t2") and log.listening() == ["t1"]
    log.publish("t2", "others", {})
    log.publish("t1", "mine", {"n": 1})
    assert await drained(listener) == [(listener.last_number + 1, "mine")]
    listener.close()
    listener.close()
    log.publish("t1", "late", {})
    assert await drained(listener) == [] and not log.listened("t1")


async def test_filters_hold_all_at_once() -> None:
    log = events()
    listener = log.listen("t1", {"container_id": "ctr_1", "operation_id": "op_1"})
    log.publish("t1", "a", {"container_id": "ctr_1"})
    log.publish("t1", "b", {"container_id": "ctr_1", "operation_id": "op_1"})
    assert [kind for _, kind in await drained(listener)] == ["b"]


async def test_numbers_grow_over_restarts_and_a_resume_finds_what_was_missed() -> None:
    log = events(1)
    first = log.listen("t1", {}).last_number
    for _ in range(3):
        log.publish("t1", "a", {})
    assert [number for number, _ in await drained(log.listen("t1", {}, first + 1))] == [first + 2, first + 3]
    assert await drained(log.listen("t1", {}, first + 3)) == []
    after_restart = events(2)
    after_restart.publish("t1", "b", {})
    resumed = await drained(after_restart.listen("t1", {}, first + 3))
    base = 2 << INCARNATION_SHIFT
    assert resumed == [(base, "gap"), (base + 1, "b")] and base > first + 3
    again = await drained(after_restart.listen("t1", {"function_id": "none"}, base))
    assert again == []


async def test_what_is_not_kept_any_more_is_a_gap_that_filters_do_not_hide() -> None:
    log = events()
    first = log.listen("t1", {}).last_number
    for _ in range(KEPT + 5):
        log.publish("t1", "a", {"function_id": "fn_1"})
    found = await drained(log.listen("t1", {"function_id": "fn_2"}, first + 2))
    assert found == [(first + 5, "gap")]
    assert (await drained(log.listen("t1", {}, first + 5)))[0] == (first + 6, "a")
    future = await drained(log.listen("t1", {}, first + 10 * KEPT))
    assert future[0] == (first + 5, "gap") and len(future) == KEPT + 1


async def test_a_slow_listener_is_dropped_with_a_last_word() -> None:
    log = events()
    listener = log.listen("t1", {})
    for _ in range(BEHIND + 10):
        log.publish("t1", "a", {})
    assert not log.listened("t1") and not listener.over
    found = await drained(listener)
    assert len(found) == BEHIND + 1 and found[-1] == (None, "dropped") and listener.over
    assert await drained(log.listen("t1", {}, found[-2][0])) != []


async def test_listeners_are_bounded() -> None:
    log = events()
    for _ in range(LISTENERS):
        log.listen("t1", {})
    with pytest.raises(LimitReached):
        log.listen("t1", {})
    log.listen("t2", {})
