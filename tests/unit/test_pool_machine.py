"""Dispatcher, scaler and executor under any order of events: a Hypothesis state machine on the fake runtime."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pool.dispatcher import VersionPool
from pool.executor import RuntimeExecutor
from pool.slots import Limits, Slot
from pool.stats import NodeStats
from pool.waiting import Waiter
from quilt_fn.errors import InvocationTimeout, QueueFull, StartFailed, Unavailable
from quilt_fn.states import InstanceState
from runtime.api import VersionSpec
from tests.fakes.clock import FakeClock
from tests.fakes.runtime import FakeInstance, FakeRuntime

SPEC = VersionSpec("default", "fn_0", "hello", 1, "b" * 64, "main:handler")


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.runtime = FakeRuntime(self.clock.wall)
        self.executor = RuntimeExecutor(self.runtime, self.clock, NodeStats())
        self.running: list[Slot] = []
        self.waiting: list[Waiter] = []
        self.turns: list[Waiter] = []

    @initialize(
        low=st.integers(0, 2), extra=st.integers(1, 3), buffer=st.integers(0, 2), max_queue=st.integers(0, 5),
        count=st.none() | st.integers(1, 3), one_shot=st.booleans(),
    )  # fmt: skip
    def begin(self, low: int, extra: int, buffer: int, max_queue: int, count: int | None, one_shot: bool) -> None:
        limits = Limits(
            min=low, max=low + extra, buffer=buffer, max_queue=max_queue, idle_timeout_s=10,
            recycle_after_invocations=count, one_shot=one_shot,
        )  # fmt: skip
        self.pool = VersionPool(SPEC, limits, self.executor, self.clock)
        self.on_loop(self.pool.consider)

    def on_loop(self, call: Any, *args: Any) -> Any:
        """Run `call` on the loop, then let everything that can go on do so."""

        async def body() -> Any:
            answer = call(*args)
            for _ in range(10):
                await asyncio.sleep(0)
            return answer

        answer = self.loop.run_until_complete(body())
        self.collect()
        return answer

    def collect(self) -> None:
        done = [waiter for waiter in self.waiting if waiter.turn.done()]
        still = [waiter for waiter in self.waiting if not waiter.turn.done()]
        self.waiting = still
        for waiter in done:
            error = waiter.turn.exception()
            if error is None:
                self.running.append(waiter.turn.result().slot)
                for left in still:
                    assert left.since >= waiter.since, "a later waiter was served first"
            else:
                assert isinstance(error, InvocationTimeout | StartFailed | Unavailable)

    @rule(timeout_s=st.sampled_from([0.05, 1.0, 30.0]))
    def one_arrives(self, timeout_s: float) -> None:
        self.arrive(timeout_s)

    def arrive(self, timeout_s: float) -> None:
        def acquire() -> Slot | Waiter | None:
            slot = self.pool.take()
            if slot is not None:
                return slot
            try:
                waiter = self.pool.wait(self.clock.at + timeout_s)
            except (QueueFull, StartFailed, Unavailable):
                return None
            self.waiting.append(waiter)
            return waiter

        got = self.on_loop(acquire)
        if isinstance(got, Slot):
            self.running.append(got)

    @rule(count=st.integers(2, 6), timeout_s=st.sampled_from([1.0, 30.0]))
    def many_arrive(self, count: int, timeout_s: float) -> None:
        for _ in range(count):
            self.arrive(timeout_s)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 100), run_s=st.sampled_from([0.001, 0.1, 3.0]), dies=st.booleans())
    def finish(self, which: int, run_s: float, dies: bool) -> None:
        slot = self.running.pop(which % len(self.running))
        assert isinstance(slot.instance, FakeInstance)
        if dies:
            slot.instance.die("crashed")
        self.on_loop(self.pool.release, slot, run_s)

    @rule(which=st.integers(0, 100))
    def an_instance_dies(self, which: int) -> None:
        live = list(self.runtime.live.values())
        if live:
            self.on_loop(live[which % len(live)].die, "killed")

    @rule(seconds=st.sampled_from([0.01, 0.1, 1.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.on_loop(self.clock.advance, seconds)
        self.on_loop(self.pool.consider)

    @rule()
    def starts_are_slow(self) -> None:
        if self.runtime._start_gate is None:
            self.on_loop(self.runtime.hold_starts)

    @rule()
    def starts_go_on(self) -> None:
        self.on_loop(self.runtime.release_starts)

    @rule(broken=st.booleans())
    def starts_fail(self, broken: bool) -> None:
        self.runtime.fail_all_starts("no memory" if broken else None)

    @rule()
    def drain(self) -> None:
        self.on_loop(self.pool.drain)

    @rule()
    def undrain(self) -> None:
        self.on_loop(self.pool.undrain)

    @rule(low=st.integers(0, 3), extra=st.integers(1, 4))
    def other_limits(self, low: int, extra: int) -> None:
        self.pool.apply(Limits(min=low, max=low + extra, idle_timeout_s=10))
        self.on_loop(self.pool.consider)

    @invariant()
    def books_are_straight(self) -> None:
        if not hasattr(self, "pool"):
            return
        pool = self.pool
        states = [slot.state for slot in pool.slots.values()]
        assert pool.busy == len(self.running) == sum(state is InstanceState.BUSY for state in states)
        assert len(pool.idle) == sum(state is InstanceState.READY for state in states)
        assert pool.queued == len(self.waiting)
        assert pool.warming >= 0
        gone = {slot.instance.instance_id for slot in self.running if slot.gone}
        assert set(self.runtime.live) | gone == set(pool.slots)
        assert not (pool.idle and pool.queued), "somebody waits beside an idle instance"
        assert len({id(slot) for slot in self.running}) == len(self.running), "one instance serves two"

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        if hasattr(self, "pool") and self.pool.queued:
            pool = self.pool
            assert pool.warming or pool.busy or self.clock.pending > pool.queued or pool._look_again is not None

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            self.runtime.fail_all_starts(None)
            self.on_loop(self.runtime.release_starts)
            for slot in self.running:
                self.on_loop(self.pool.release, slot, 0.1)
            self.running.clear()
            self.on_loop(self.pool.end, Unavailable("over"))
            for slot in self.running:
                self.on_loop(self.pool.release, slot, 0.1)
            assert self.pool.is_empty
            assert self.runtime.live == {}
            self.loop.run_until_complete(self.executor.close())
        self.loop.close()


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
