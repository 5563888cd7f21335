"""The scaler, read as a specification: what is seen, and what is done about it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pool.scaler import Action, Idle, LookAgain, Retire, Start, View, decide


def idle(*since: float, used_up: str | None = None) -> list[Idle]:
    return [Idle(f"ins_{index}", each, used_up) for index, each in enumerate(since)]


def starts(actions: list[Action]) -> int:
    return sum(action.count for action in actions if isinstance(action, Start))


def retired(actions: list[Action]) -> list[str]:
    return [action.instance_id for action in actions if isinstance(action, Retire)]


class TestStarting:
    def test_nothing_to_do(self) -> None:
        assert decide(View(now=0)) == []

    def test_each_waiter_gets_an_instance_of_its_own(self) -> None:
        assert decide(View(now=0, queued=5)) == [Start(5)]

    def test_what_was_started_and_has_not_come_up_counts(self) -> None:
        assert decide(View(now=0, queued=5, warming=3)) == [Start(2)]
        assert decide(View(now=0, queued=5, warming=5)) == []

    def test_never_more_than_max(self) -> None:
        assert decide(View(now=0, queued=50, busy=3, warming=2, max=8)) == [Start(3)]

    def test_min_is_there_without_anyone_asking(self) -> None:
        assert decide(View(now=0, min=3)) == [Start(3)]
        assert decide(View(now=0, min=3, busy=1, warming=1)) == [Start(1)]

    def test_the_buffer_comes_on_top_of_what_is_busy(self) -> None:
        assert decide(View(now=0, buffer=2, busy=3)) == [Start(2)]
        assert decide(View(now=0, buffer=2, busy=3, idle=idle(0, 0))) == []
        assert decide(View(now=0, buffer=2, busy=9, max=10)) == [Start(1)]

    def test_not_more_at_once_than_the_machine_takes(self) -> None:
        assert decide(View(now=0, queued=50, max=50, max_warming=16)) == [Start(16)]
        assert decide(View(now=0, queued=50, max=50, max_warming=16, warming=10)) == [Start(6)]


class TestWaitingForOneThatIsAboutToBeFree:
    def test_a_queue_that_is_over_sooner_than_a_start_waits(self) -> None:
        view = View(now=0, queued=2, busy=2, start_s=0.040, run_s=0.001)
        assert decide(view) == [LookAgain(0.040)]

    def test_a_queue_that_takes_longer_gets_instances(self) -> None:
        assert decide(View(now=0, queued=2, busy=1, start_s=0.003, run_s=0.020)) == [Start(2)]

    def test_who_has_waited_as_long_as_a_start_takes_waits_no_more(self) -> None:
        view = View(now=0, queued=1, busy=1, start_s=0.040, run_s=0.001, oldest_wait_s=0.040)
        assert decide(view) == [Start(1)]

    def test_without_figures_it_starts(self) -> None:
        assert decide(View(now=0, queued=1, busy=1, start_s=None, run_s=0.001)) == [Start(1)]

    def test_with_nothing_busy_there_is_nothing_to_wait_for(self) -> None:
        assert decide(View(now=0, queued=1, start_s=10, run_s=0.001)) == [Start(1)]


class TestStartsThatFail:
    def test_nothing_before_the_backoff_is_over(self) -> None:
        assert decide(View(now=10, queued=5, failures=1, not_before=10.5)) == [LookAgain(0.5)]

    def test_then_one_at_a_time(self) -> None:
        assert decide(View(now=11, queued=5, failures=1, not_before=10.5)) == [Start(1)]
        assert decide(View(now=11, queued=5, failures=1, not_before=10.5, warming=1)) == []

    def test_instances_that_are_used_up_stay_where_none_can_be_started(self) -> None:
        view = View(now=10, min=1, idle=idle(0, used_up="age"), failures=2, not_before=20)
        assert retired(decide(view)) == []


class TestRetiring:
    def test_idle_for_too_long_goes_longest_first(self) -> None:
        view = View(now=400, idle=idle(0, 50, 390), idle_timeout_s=300)
        assert retired(decide(view)) == ["ins_0", "ins_1"]

    def test_never_below_min(self) -> None:
        assert retired(decide(View(now=400, idle=idle(0, 0, 0), min=2))) == ["ins_0"]

    def test_never_below_the_buffer(self) -> None:
        assert retired(decide(View(now=400, idle=idle(0, 0), busy=1, buffer=1))) == ["ins_0"]

    def test_never_below_what_the_arrivals_keep_busy(self) -> None:
        view = View(now=400, idle=idle(0, 0, 0), arrivals_per_s=100, run_s=0.015)
        assert retired(decide(view)) == ["ins_0"]

    def test_what_is_over_max_goes_at_once(self) -> None:
        assert retired(decide(View(now=0, idle=idle(0, 0, 0), busy=2, max=3))) == ["ins_0", "ins_1"]

    def test_a_pool_that_drains_keeps_nothing_and_still_serves_who_waits(self) -> None:
        assert retired(decide(View(now=0, idle=idle(0, 0), min=2, buffer=2, draining=True))) == ["ins_0", "ins_1"]
        assert decide(View(now=0, queued=2, min=5, buffer=3, draining=True)) == [Start(2)]

    def test_one_that_is_used_up_is_replaced_in_the_same_breath(self) -> None:
        view = View(now=0, min=1, max=1, idle=idle(0, used_up="older than 60 s"))
        assert decide(view) == [Retire("ins_0", "older than 60 s"), Start(1)]

    def test_those_that_are_needed_are_replaced_one_after_the_other(self) -> None:
        view = View(now=0, min=3, idle=idle(0, 0, 0, used_up="age"))
        assert decide(view) == [Retire("ins_0", "age"), Start(1)]
        assert decide(View(now=0, min=3, idle=idle(0, 0, used_up="age"), warming=1)) == []


views = st.builds(
    View,
    now=st.floats(0, 1000),
    queued=st.integers(0, 60),
    oldest_wait_s=st.floats(0, 10),
    busy=st.integers(0, 20),
    idle=st.lists(st.tuples(st.floats(0, 1000), st.sampled_from([None, None, "age"])), max_size=20).map(
        lambda items: [Idle(f"ins_{index}", *each) for index, each in enumerate(items)]
    ),
    warming=st.integers(0, 20),
    min=st.integers(0, 20),
    max=st.integers(1, 40),
    buffer=st.integers(0, 20),
    idle_timeout_s=st.floats(0, 500),
    draining=st.booleans(),
    failures=st.integers(0, 5),
    not_before=st.floats(0, 1000),
    max_warming=st.integers(1, 16),
    start_s=st.none() | st.floats(0.001, 10),
    run_s=st.none() | st.floats(0.0001, 10),
    arrivals_per_s=st.floats(0, 1000),
)


@given(views)
def test_invariants(view: View) -> None:
    actions = decide(view)
    begun, ended = starts(actions), retired(actions)
    before = view.busy + len(view.idle) + view.warming
    after = before - len(ended) + begun
    low = 0 if view.draining else min(view.min, view.max)

    assert begun >= 0
    assert after <= max(view.max, before)
    if begun:
        assert after <= view.max
    assert after >= min(low, before)
    assert len(ended) == len(set(ended))
    assert set(ended) <= {each.instance_id for each in view.idle}
    assert begun <= view.max_warming
    assert begun <= max(0, view.queued + view.buffer + view.min + len(ended) - view.warming)
    if view.failures:
        assert begun + view.warming <= max(1, view.warming)
        assert not begun or view.now >= view.not_before
    if view.queued and not before and not begun:
        assert any(isinstance(action, LookAgain) for action in actions)


@given(views)
def test_once_done_there_is_nothing_more_to_start(view: View) -> None:
    actions = decide(view)
    gone = set(retired(actions))
    after = View(
        **{name: getattr(view, name) for name in View.__dataclass_fields__ if name not in ("warming", "idle")},
        warming=view.warming + starts(actions),
        idle=[each for each in view.idle if each.instance_id not in gone],
    )
    assert starts(decide(after)) == 0


def test_an_idle_instance_is_not_ended_and_started_again_while_a_queue_waits() -> None:
    view = View(now=0.0, queued=2, warming=1, idle=[Idle("ins_0", 0.0, None)], min=0, max=2, idle_timeout_s=0.0)
    assert decide(view) == []


def test_a_request_behind_a_call_that_takes_long_does_not_wait_for_what_calls_used_to_take() -> None:
    usual = View(now=100.0, queued=1, busy=1, start_s=0.005, run_s=0.001)
    assert [type(action) for action in decide(usual)] == [LookAgain]
    assert decide(replace(usual, unchanged_s=0.5)) == [Start(1)]
