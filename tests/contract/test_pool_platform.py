"""The platform on the fake runtime and on both Redises: deploy, invoke, update, pause, delete, restart, Redis away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pool.api import Report
from pool.platform import Platform
from quilt_fn.errors import (
    BuildFailed,
    FunctionBroken,
    FunctionFailed,
    FunctionNotDeployed,
    FunctionNotFound,
    FunctionPaused,
    InvalidValue,
    InvocationTimeout,
    NameTaken,
    QueueFull,
    RegistryUnavailable,
    StartFailed,
)
from quilt_fn.model.function import FunctionUpdate
from quilt_fn.states import StartKind
from runtime.api import Failure
from tests.contract.conftest import MakePlatform, RedisHandle
from tests.fakes.calls import TENANT, call, create, deployed, until
from tests.fakes.runtime import FakeRuntime, dies, held, overtime, raises, streams


async def invoke(platform: Platform, name: str = "hello", body: bytes = b"{}", timeout_s: float = 30):
    target = platform.resolve(TENANT, name)
    assert target is not None
    return await platform.invoke(target, call(body, timeout_s))


async def test_a_function_from_create_to_a_warm_answer(platform: Platform, runtime: FakeRuntime) -> None:
    created = await platform.create(TENANT, create(secrets={"TOKEN": "x"}))
    assert (created.state, created.version, created.current_version) == ("pending", 1, None)
    assert created.secrets == ["TOKEN"]
    with pytest.raises(FunctionNotDeployed):
        platform.resolve(TENANT, "hello")
    steps: list[str] = []
    record = await platform.deploy(TENANT, created.function_id, lambda step: steps.append(step.text))
    assert (record.state, record.current_version, steps) == ("active", 1, ["starting", "started"])
    assert record.snapshot.state == "ready"

    first = await invoke(platform, body=b'{"a": 1}')
    second = await invoke(platform)
    assert (first.start, first.outcome.body) == (StartKind.FORK, b'{"a": 1}')
    assert (second.start, second.queue_ms, second.start_ms) == (StartKind.WARM, 0.0, 0.0)
    assert len(runtime.instances) == 1

    stored = await platform.invocation(TENANT, record.function_id, first.invocation_id)
    assert (stored.status, stored.result, stored.cold_start, stored.start) == ("success", {"a": 1}, True, "fork")
    listed, cursor = await platform.invocations(TENANT, record.function_id, None, 10, None)
    assert [each.invocation_id for each in listed] == [second.invocation_id, first.invocation_id]
    assert cursor is None
    again = await platform.get(TENANT, record.function_id)
    assert (again.invocation_count, again.error_count) == (2, 0)
    assert again.last_invoked_at is not None
    text = platform.metrics().decode()
    assert 'quilt_starts_total{kind="fork"} 1.0' in text
    assert 'quilt_invocations_total{function="hello",status="success"} 2.0' in text
    assert "quilt_invocation_seconds_count 2.0" in text
    assert "quilt_redis_up 1.0" in text


async def test_wrong_input(platform: Platform) -> None:
    record = await deployed(platform)
    with pytest.raises(NameTaken):
        await platform.create(TENANT, create())
    with pytest.raises(InvalidValue):
        await platform.create(TENANT, create("other", min_instances=5, max_instances=2))
    with pytest.raises(InvalidValue) as caught:
        await platform.update(TENANT, record.function_id, FunctionUpdate(memory_limit_mb=1))
    assert caught.value.details is not None
    assert caught.value.details["fields"][0]["field"] == "memory_limit_mb"
    with pytest.raises(FunctionNotFound):
        await platform.get("another", record.function_id)
    assert platform.resolve("another", "hello") is None
    assert platform.resolve(None, "hello") is None


async def test_two_creates_of_one_name_at_once(platform: Platform) -> None:
    outcomes = await asyncio.gather(*(platform.create(TENANT, create()) for _ in range(4)), return_exceptions=True)
    assert sum(not isinstance(each, NameTaken) for each in outcomes) == 1
    assert len((await platform.list(TENANT, 10, None))[0]) == 1


async def test_lists_go_on_at_their_cursor(platform: Platform) -> None:
    for number in range(5):
        await platform.create(TENANT, create(f"f{number}"))
    names: list[str] = []
    cursor = None
    while True:
        page, cursor = await platform.list(TENANT, 2, cursor)
        names += [each.name for each in page]
        if cursor is None:
            break
    assert sorted(names) == ["f0", "f1", "f2", "f3", "f4"]


async def test_invocations_wait_for_the_first_deploy(platform: Platform, runtime: FakeRuntime) -> None:
    record = await platform.create(TENANT, create())
    runtime.hold_builds()
    deploy = asyncio.create_task(platform.deploy(TENANT, record.function_id))
    await until(lambda: runtime.builds)
    assert (await platform.get(TENANT, record.function_id)).state == "deploying"
    waiting = asyncio.create_task(invoke(platform))
    await until(lambda: platform._pools.of(record.function_id)[0].queued)
    runtime.release_builds()
    assert (await waiting).outcome.failure is None
    await deploy


async def test_a_first_deploy_that_fails(platform: Platform, runtime: FakeRuntime) -> None:
    record = await platform.create(TENANT, create())
    runtime.fail_builds("no module named nothing")
    runtime.hold_builds()
    deploy = asyncio.create_task(platform.deploy(TENANT, record.function_id))
    await until(lambda: runtime.builds)
    waiting = asyncio.create_task(invoke(platform))
    await until(lambda: platform._pools.of(record.function_id)[0].queued)
    runtime.release_builds()
    with pytest.raises(BuildFailed):
        await deploy
    with pytest.raises(FunctionBroken):
        await waiting
    failed = await platform.get(TENANT, record.function_id)
    assert failed.state == "error"
    assert "no module named nothing" in (failed.error_message or "")
    with pytest.raises(FunctionBroken):
        platform.resolve(TENANT, "hello")
    runtime.build_error = None
    assert (await platform.deploy(TENANT, record.function_id)).state == "active"


async def test_a_failing_update_leaves_the_old_version_serving(platform: Platform, runtime: FakeRuntime) -> None:
    record = await deployed(platform)
    runtime.fail_builds("boom")
    await platform.update(TENANT, record.function_id, FunctionUpdate(description="new"))
    with pytest.raises(BuildFailed):
        await platform.deploy(TENANT, record.function_id)
    now = await platform.get(TENANT, record.function_id)
    assert (now.state, now.version, now.current_version) == ("active", 2, 1)
    assert "boom" in (now.error_message or "")
    assert (await invoke(platform)).outcome.failure is None


async def test_an_update_drains_the_old_version(platform: Platform, runtime: FakeRuntime) -> None:
    record = await deployed(platform)
    gate = asyncio.Event()
    runtime.handler = held(gate)
    old_call = asyncio.create_task(invoke(platform))
    await until(lambda: runtime.instances and runtime.instances[0].calls)
    stale = platform.resolve(TENANT, "hello")
    await platform.update(TENANT, record.function_id, FunctionUpdate(timeout_seconds=5))
    now = await platform.deploy(TENANT, record.function_id)
    assert now.current_version == 2
    assert runtime.instances[0].closed is None
    assert stale is not None
    new_call = asyncio.create_task(platform.invoke(stale, call()))
    gate.set()
    await new_call
    assert (await old_call).outcome.failure is None
    await until(lambda: runtime.instances[0].closed is not None)
    assert runtime.instances[1].spec.version == 2
    await until(lambda: len(platform._pools.of(record.function_id)) == 1)


async def test_the_two_newest_ready_versions_keep_their_snapshots(platform: Platform, runtime: FakeRuntime) -> None:
    record = await deployed(platform)
    for number in range(3):
        await platform.update(TENANT, record.function_id, FunctionUpdate(description=str(number)))
        await platform.deploy(TENANT, record.function_id)
    await until(lambda: len(runtime.forgotten) == 2)
    assert runtime.forgotten == [f"{record.function_id}.v1", f"{record.function_id}.v2"]


async def test_pause_and_resume(platform: Platform, runtime: FakeRuntime) -> None:
    record = await deployed(platform, min_instances=1)
    assert (await platform.pool(TENANT, record.function_id)).ready_count == 1
    assert (await platform.pause(TENANT, record.function_id)).state == "paused"
    with pytest.raises(FunctionPaused):
        platform.resolve(TENANT, "hello")
    await until(lambda: not runtime.live)
    assert (await platform.resume(TENANT, record.function_id)).state == "active"
    assert (await platform.pool(TENANT, record.function_id)).ready_count == 1
    assert not runtime.forgotten


async def test_delete_lets_what_runs_end_and_leaves_no_key(
    platform: Platform, runtime: FakeRuntime, redis: RedisHandle
) -> None:
    client = redis.client()
    before = await client.keys("*")
    record = await deployed(platform)
    gate = asyncio.Event()
    runtime.handler = held(gate)
    running = asyncio.create_task(invoke(platform))
    await until(lambda: runtime.instances and runtime.instances[0].calls)
    delete = asyncio.create_task(platform.delete(TENANT, record.function_id))
    await until(lambda: platform.resolve(TENANT, "hello") is None)
    with pytest.raises(FunctionNotFound):
        await platform.get(TENANT, record.function_id)
    gate.set()
    assert (await running).outcome.failure is None
    await delete
    assert not runtime.live
    assert runtime.forgotten == [f"{record.function_id}.v1"]
    assert sorted(await client.keys("*")) == sorted(before)
    await client.aclose()
    assert (await deployed(platform)).state == "active"


async def test_delete_while_it_is_built(platform: Platform, runtime: FakeRuntime) -> None:
    record = await platform.create(TENANT, create())
    runtime.hold_builds()
    deploy = asyncio.create_task(platform.deploy(TENANT, record.function_id))
    await until(lambda: runtime.builds)
    waiting = asyncio.create_task(invoke(platform))
    await until(lambda: platform._pools.of(record.function_id)[0].queued)
    delete = asyncio.create_task(platform.delete(TENANT, record.function_id))
    with pytest.raises(FunctionNotFound):
        await deploy
    with pytest.raises(FunctionNotFound):
        await waiting
    await delete
    assert list(platform._pools.all()) == []


async def test_a_watcher_of_a_build_that_fails_does_not_break_it(platform: Platform) -> None:
    record = await platform.create(TENANT, create())

    def watch(_step: object) -> None:
        raise ConnectionResetError("the client has gone")

    assert (await platform.deploy(TENANT, record.function_id, watch)).state == "active"


async def test_failures_of_the_function_are_outcomes(platform: Platform, runtime: FakeRuntime) -> None:
    record = await deployed(platform)
    for handler, status in ((raises("boom"), "failed"), (dies, "failed"), (overtime, "timeout")):
        runtime.handler = handler
        served = await invoke(platform)
        assert served.outcome.failure is not None
        stored = await platform.invocation(TENANT, record.function_id, served.invocation_id)
        assert stored.status == status
        assert stored.error_code == served.outcome.failure.code
    assert len(runtime.instances) == 2  # the one that raised served again, then died; the next one ran over time
    found, _ = await platform.invocations(TENANT, record.function_id, "timeout", 10, None)
    assert len(found) == 1


async def test_a_full_queue_and_a_deadline_in_it(platform: Platform, runtime: FakeRuntime) -> None:
    record = await deployed(platform, max_instances=1, max_queue=1)
    gate = asyncio.Event()
    runtime.handler = held(gate)
    running = asyncio.create_task(invoke(platform))
    await until(lambda: runtime.instances and runtime.instances[0].calls)
    with pytest.raises(InvocationTimeout) as caught:
        await invoke(platform, timeout_s=0.05)
    assert caught.value.details is not None
    assert caught.value.details["limit"] == "queue"
    waiting = asyncio.create_task(invoke(platform))
    await until(lambda: platform._pools.of(record.function_id)[0].queued)
    with pytest.raises(QueueFull) as full:
        await invoke(platform)
    assert full.value.retry_after is not None
    gate.set()
    assert (await waiting).start is StartKind.WARM
    await running
    found, _ = await platform.invocations(TENANT, record.function_id, "timeout", 10, None)
    assert [each.error_code for each in found] == ["INVOCATION_TIMEOUT"]


async def test_no_instance_starts(platform: Platform, runtime: FakeRuntime) -> None:
    await deployed(platform)
    runtime.fail_all_starts("no cgroup")
    with pytest.raises(StartFailed, match="no cgroup"):
        await invoke(platform)
    assert len(runtime.starts) == 3
    with pytest.raises(StartFailed) as caught:
        await invoke(platform)
    assert caught.value.retry_after
    assert len(runtime.starts) == 3


async def test_a_cancelled_caller_that_waits_does_not_cancel_its_call(platform: Platform, runtime: FakeRuntime) -> None:
    record = await deployed(platform)
    runtime.hold_starts()
    target = platform.resolve(TENANT, "hello")
    assert target is not None
    mine = call()
    caller = asyncio.create_task(platform.invoke(target, mine))
    await until(lambda: runtime.starts)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    runtime.release_starts()
    await until(lambda: runtime.instances and runtime.instances[0].calls)
    await platform._invoker.close()
    assert (await platform.invocation(TENANT, record.function_id, mine.invocation_id)).status == "success"


async def test_a_cancelled_caller_whose_call_runs_ends_the_instance(platform: Platform, runtime: FakeRuntime) -> None:
    record = await deployed(platform)
    runtime.handler = held(asyncio.Event())
    target = platform.resolve(TENANT, "hello")
    assert target is not None
    mine = call()
    caller = asyncio.create_task(platform.invoke(target, mine))
    await until(lambda: runtime.instances and runtime.instances[0].calls)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not runtime.live
    assert (await platform.invocation(TENANT, record.function_id, mine.invocation_id)).status == "cancelled"
    assert (await platform.pool(TENANT, record.function_id)).total_count == 0


async def test_what_a_build_prints_is_in_the_functions_log(platform: Platform, runtime: FakeRuntime) -> None:
    runtime.build_output = "loading\nloaded"
    record = await deployed(platform)
    runtime.build_output = "loading again"
    runtime.fail_builds("no")
    await platform.update(TENANT, record.function_id, FunctionUpdate(description="another"))
    with pytest.raises(BuildFailed):
        await platform.deploy(TENANT, record.function_id)
    lines = platform.logs(TENANT, record.function_id, follow=False, invocation_id=None, limit=10)
    assert [(line["text"], line["invocation_id"]) async for line in lines] == [
        ("loading", None), ("loaded", None), ("loading again", None),
    ]  # fmt: skip


async def test_streams_hold_their_instance_until_they_end(platform: Platform, runtime: FakeRuntime) -> None:
    record = await deployed(platform)
    runtime.handler = streams(b"a", b"b")
    served = await invoke(platform)
    assert (await platform.pool(TENANT, record.function_id)).busy_count == 1
    assert served.outcome.stream is not None
    assert [chunk async for chunk in served.outcome.stream] == [b"a", b"b"]
    assert (await platform.pool(TENANT, record.function_id)).ready_count == 1

    abandoned = await invoke(platform)
    await abandoned.outcome.stream.aclose()  # type: ignore[union-attr]
    await until(lambda: platform._pools.of(record.function_id)[0].busy == 0)
    stored = await platform.invocation(TENANT, record.function_id, abandoned.invocation_id)
    assert stored.status == "cancelled"


async def test_a_stream_that_fails_keeps_what_the_runtime_knows_of_it(platform: Platform, runtime: FakeRuntime) -> None:
    record = await deployed(platform)
    for failure, status in (
        (Failure("HANDLER_ERROR", "KeyError", "'k'", "Traceback …"), "failed"),
        (Failure("INVOCATION_TIMEOUT", "InvocationTimeout", "over its time"), "timeout"),
    ):
        runtime.handler = streams(b"a", failing=failure)
        served = await invoke(platform)
        assert served.outcome.stream is not None
        with pytest.raises(FunctionFailed):
            [chunk async for chunk in served.outcome.stream]
        stored = await platform.invocation(TENANT, record.function_id, served.invocation_id)
        assert (stored.status, stored.error_code) == (status, failure.code)
        assert stored.error is not None
        assert (stored.error.type, stored.error.message, stored.error.traceback) == (
            failure.type, failure.message, failure.traceback,
        )  # fmt: skip


async def test_a_restart_keeps_functions_and_fails_what_was_building(
    make_platform: MakePlatform, runtime: FakeRuntime
) -> None:
    first = await make_platform(runtime)
    record = await deployed(first, min_instances=2)
    await invoke(first)
    other = await first.create(TENANT, create("building"))
    runtime.hold_builds()
    building = asyncio.create_task(first.deploy(TENANT, other.function_id))
    await until(lambda: len(runtime.builds) == 2)
    building.cancel()
    await asyncio.gather(building, return_exceptions=True)
    await first._records.flush()

    after = FakeRuntime()
    second = await make_platform(after)
    assert after.kept == [f"{record.function_id}.v1"]
    loaded = await second.get(TENANT, record.function_id)
    assert (loaded.state, loaded.invocation_count) == ("active", 1)
    await until(lambda: len(after.live) == 2)
    failed = await second.get(TENANT, other.function_id)
    assert failed.state == "error"
    assert "NODE_RESTARTED" in (failed.error_message or "")
    assert second.authenticate_cached("quilt_sk_test") is not None


async def test_while_redis_is_away_invocations_go_on(
    platform: Platform, runtime: FakeRuntime, redis: RedisHandle
) -> None:
    record = await deployed(platform)
    await invoke(platform)
    await redis.go_away()
    served = await invoke(platform)
    assert served.outcome.failure is None
    stored = await platform.invocation(TENANT, record.function_id, served.invocation_id)
    assert stored.status == "success"
    with pytest.raises(RegistryUnavailable):
        await platform.create(TENANT, create("other"))
    with pytest.raises(RegistryUnavailable):
        await platform.update(TENANT, record.function_id, FunctionUpdate(description="x"))
    assert (await platform.system())["redis"]["available"] is False
    await redis.come_back()
    await until(lambda: platform._records.waiting == 0)
    assert (await platform._records.counts(record.function_id))["invocations"] == 2
    await platform.create(TENANT, create("other"))


async def test_the_pool_target_wins_over_the_version(platform: Platform, runtime: FakeRuntime) -> None:
    record = await deployed(platform)
    await platform.set_pool_target(TENANT, record.function_id, 3, 4)
    await until(lambda: len(runtime.live) == 3)
    assert (await platform.get(TENANT, record.function_id)).min_instances == 3
    with pytest.raises(InvalidValue):
        await platform.set_pool_target(TENANT, record.function_id, 3, 2)


async def test_output_beyond_4_kib_is_joined_from_the_logs(platform: Platform, runtime: FakeRuntime) -> None:
    from runtime.api import Outcome

    record = await deployed(platform)
    text = "line\n" * 2000 + "no newline"
    runtime.handler = lambda _instance, _call: Outcome(body=b"1", stdout=text.encode(), stderr=b"oh\n")
    served = await invoke(platform)
    assert (await platform.invocation(TENANT, record.function_id, served.invocation_id)).stdout == text
    await platform._records.flush()
    stored = await platform.invocation(TENANT, record.function_id, served.invocation_id)
    assert (stored.stdout, stored.stderr) == (text, "oh\n")
    lines = [
        line async for line in platform.logs(TENANT, record.function_id, follow=False, invocation_id=None, limit=2)
    ]
    assert [line["text"] for line in lines] == ["no newline", "oh"]


async def test_followers_of_logs_see_new_lines(platform: Platform, runtime: FakeRuntime) -> None:
    from runtime.api import Outcome

    record = await deployed(platform)
    runtime.handler = lambda _instance, call: Outcome(body=b"1", stdout=call.body + b"\n")
    await invoke(platform, body=b"1")
    lines = platform.logs(TENANT, record.function_id, follow=True, invocation_id=None, limit=10)
    assert (await anext(lines))["text"] == "1"
    coming = asyncio.ensure_future(anext(lines))
    await invoke(platform, body=b"2")
    assert (await coming)["text"] == "2"
    await lines.aclose()  # type: ignore[attr-defined]


async def test_keys(platform: Platform) -> None:
    made = await platform.create_key("another", "ci")
    caller = await platform.authenticate(made["key"])
    assert caller is not None
    assert (caller.tenant_id, caller.key_id) == ("another", made["key_id"])
    keys, _ = await platform.keys("another", 10, None)
    assert [key["name"] for key in keys] == ["ci"] and "key" not in keys[0]
    await platform.delete_key("another", made["key_id"])
    assert await platform.authenticate(made["key"]) is None
    assert await platform.authenticate("wrong") is None


async def test_a_listener_hears_of_functions_pools_invocations_and_operations(platform: Platform) -> None:
    listener = platform.events.listen(TENANT, {})
    record = await deployed(platform)
    await invoke(platform)

    async def work(_report: Report) -> None:
        return None

    begun = await platform.operations.begin(
        TENANT, "function.test", ("function", record.function_id), work, timeout_s=5
    )
    heard: dict[str, list[dict[str, Any]]] = {}
    while (
        not {"function_update", "pool_update", "invocation"} <= set(heard) or len(heard.get("OperationUpdate", [])) < 3
    ):
        event = await listener.next(20)
        assert event is not None, heard
        heard.setdefault(event.kind, []).append(dict(event.data))
    assert {each["function_id"] for events in heard.values() for each in events} == {record.function_id}
    assert [each["state"] for each in heard["function_update"]][-1] == "active"
    assert [each["status"] for each in heard["OperationUpdate"]] == ["accepted", "running", "succeeded"]
    assert heard["OperationUpdate"][0]["operation_id"] == begun.operation_id
    assert heard["invocation"][0]["status"] == "success"
    await platform.delete(TENANT, record.function_id)
    while (event := await listener.next(20)) is not None and event.data.get("state") != "deleted":
        pass
    assert event is not None
    listener.close()
