"""Lives of containers on a fake runtime and both kinds of Redis: verbs that meet each other, and what fails on the way.

Not here: real sandboxes (tests/integration/test_containers.py).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from pool import keys_in_redis as keys
from pool.clock import Clock
from pool.containers.registry import ContainerRegistry
from pool.containers.service import ContainerService
from pool.redis_link import RedisLink
from quilt_fn.errors import (
    Conflict,
    ContainerNotFound,
    ContainerNotRunning,
    InvalidValue,
    NameTaken,
    RegistryUnavailable,
    SpawnerError,
)
from quilt_fn.model.container import ContainerCreate, ContainerRecord
from quilt_fn.states import ContainerState as State
from tests.contract.conftest import RedisHandle
from tests.fakes.containers import FakeContainers
from tests.slowness import patience

TENANT = "t_a"
MakeService = Callable[..., Awaitable[ContainerService]]


@pytest.fixture
def runtime() -> FakeContainers:
    return FakeContainers()


@pytest.fixture
async def make_service(redis: RedisHandle, runtime: FakeContainers, tmp_path: Path) -> AsyncIterator[MakeService]:
    """Each is another node process on the same Redis and the same machine."""
    made: list[tuple[ContainerService, RedisLink]] = []

    async def make() -> ContainerService:
        link, clock = RedisLink(redis.client()), Clock()
        registry = ContainerRegistry(link, clock.wall)
        registry.incarnation = len(made) + 1
        service = ContainerService(registry, runtime, tmp_path / "logs", clock)
        made.append((service, link))
        await service.restore()
        return service

    yield make
    for service, link in made:
        await service.close()
        await link.close()


@pytest.fixture
async def service(make_service: MakeService) -> ContainerService:
    return await make_service()


async def new(service: ContainerService, name: str = "one", **spec: object) -> ContainerRecord:
    return await service.create(TENANT, ContainerCreate.model_validate({"name": name, **spec}))


async def holds(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(patience(10)):
        while not await condition():  # noqa: ASYNC110 - what it waits for is several tasks deep, and says nothing
            await asyncio.sleep(0.005)


async def until(service: ContainerService, container_id: str, condition: Callable[[ContainerRecord], bool]) -> None:
    async def seen() -> bool:
        return condition(await service.get(TENANT, container_id))

    await holds(seen)


async def none_is_there(service: ContainerService) -> None:
    async def none() -> bool:
        return not await names(service)

    await holds(none)


async def a_start_is_under_way(runtime: FakeContainers) -> None:
    async def asked() -> bool:
        return bool(runtime.asked)

    await holds(asked)


async def names(service: ContainerService) -> list[str]:
    return [record.name for record in (await service.list(TENANT, 100, None, None, {}))[0]]


async def test_names_are_unique_in_a_tenant(service: ContainerService) -> None:
    first = await new(service)
    with pytest.raises(NameTaken) as caught:
        await new(service)
    assert caught.value.details["container_id"] == first.container_id
    await service.create("t_b", ContainerCreate(name="one"))
    with pytest.raises(ContainerNotFound):
        await service.get("t_b", first.container_id)


async def test_a_create_that_fails_leaves_nothing(
    service: ContainerService, runtime: FakeContainers, tmp_path: Path
) -> None:
    runtime.fail_starts = SpawnerError("no room")
    with pytest.raises(SpawnerError, match="no room"):
        await new(service)
    assert (await names(service), runtime.layers, list((tmp_path / "logs").glob("*"))) == ([], set(), [])
    runtime.fail_starts = None
    assert (await new(service)).state is State.RUNNING


async def test_a_create_that_is_cancelled_leaves_nothing(service: ContainerService, runtime: FakeContainers) -> None:
    runtime.hold = asyncio.Event()
    creating = asyncio.create_task(new(service))
    await a_start_is_under_way(runtime)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    await none_is_there(service)
    assert runtime.layers == set()


async def test_what_could_not_be_taken_back_goes_later(
    service: ContainerService, runtime: FakeContainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spawner goes away in the middle of a create: the name is free again once it is back."""
    runtime.fail_starts = SpawnerError("gone")
    with monkeypatch.context() as gone:

        async def fails(*_: object) -> None:
            raise SpawnerError("gone")

        gone.setattr(runtime, "delete", fails)
        gone.setattr(runtime, "stop", fails)
        with pytest.raises(SpawnerError):
            await new(service)
        assert await names(service) == ["one"]
    upkeep = asyncio.create_task(service.run())
    await none_is_there(service)
    upkeep.cancel()
    await asyncio.gather(upkeep, return_exceptions=True)


async def test_a_start_that_fails_leaves_it_to_be_started_again(
    service: ContainerService, runtime: FakeContainers
) -> None:
    ctr = (await new(service)).container_id
    await service.stop(TENANT, ctr, 1)
    runtime.fail_starts = SpawnerError("no room")
    with pytest.raises(SpawnerError):
        await service.start(TENANT, ctr)
    seen = await service.get(TENANT, ctr)
    assert (seen.state, seen.exit_reason, seen.error_message) == (State.EXITED, "not_started", "no room")
    assert ctr in runtime.layers, "its writable layer stays"
    runtime.fail_starts = None
    seen = await service.start(TENANT, ctr)
    assert (seen.state, seen.exit_reason, seen.error_message) == (State.RUNNING, None, None)


async def test_two_deletes_at_once(service: ContainerService, runtime: FakeContainers) -> None:
    ctr = (await new(service)).container_id
    first, second = await asyncio.gather(
        service.delete(TENANT, ctr), service.delete(TENANT, ctr), return_exceptions=True
    )
    assert first is None and isinstance(second, ContainerNotFound)
    assert (await names(service), runtime.layers) == ([], set())


@pytest.mark.parametrize("verb", ["stop", "delete"])
async def test_a_verb_during_create_waits_for_it(service: ContainerService, runtime: FakeContainers, verb: str) -> None:
    runtime.hold = asyncio.Event()
    creating = asyncio.create_task(new(service))
    await a_start_is_under_way(runtime)
    ctr = (await service.by_name(TENANT, "one")).container_id
    asked = asyncio.create_task(
        service.stop(TENANT, ctr, 1) if verb == "stop" else service.delete(TENANT, ctr)  # type: ignore[arg-type]
    )
    await asyncio.sleep(0.01)
    runtime.hold.set()
    assert (await creating).container_id == ctr
    await asked
    assert await names(service) == (["one"] if verb == "stop" else [])
    assert runtime.live == {}


async def test_a_pause_that_can_not_be_written_down_is_undone(
    service: ContainerService, redis: RedisHandle, runtime: FakeContainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctr = (await new(service)).container_id
    asked: list[str] = []

    async def note(verb: str) -> None:
        asked.append(verb)

    monkeypatch.setattr(runtime, "pause", lambda _: note("pause"))
    monkeypatch.setattr(runtime, "resume", lambda _: note("resume"))
    await redis.go_away()
    with pytest.raises(RegistryUnavailable):
        await service.pause(TENANT, ctr)
    assert asked == ["pause", "resume"]
    await redis.come_back()
    assert (await service.get(TENANT, ctr)).state is State.RUNNING


async def test_a_pause_that_could_not_be_undone_at_once_is_undone_later(
    service: ContainerService, runtime: FakeContainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spawner has frozen it, and died before it said so: by its record it runs, and it answers nobody."""
    ctr = (await new(service)).container_id
    frozen, away = set(), True

    async def pause(container_id: str) -> None:
        frozen.add(container_id)
        raise SpawnerError("the spawner died")

    async def resume(container_id: str) -> None:
        if away:
            raise SpawnerError("the spawner is away")
        frozen.discard(container_id)

    monkeypatch.setattr(runtime, "pause", pause)
    monkeypatch.setattr(runtime, "resume", resume)
    with pytest.raises(SpawnerError, match="died"):
        await service.pause(TENANT, ctr)
    looking = asyncio.create_task(service.run())
    await asyncio.sleep(1.5)
    assert frozen == {ctr}
    away = False

    async def thawed() -> bool:
        return not frozen

    await holds(thawed)
    assert (await service.get(TENANT, ctr)).state is State.RUNNING
    looking.cancel()


async def test_a_resize_that_can_not_be_written_down_is_undone(
    service: ContainerService, redis: RedisHandle, runtime: FakeContainers
) -> None:
    made = await new(service, memory_limit_mb=64, pids_limit=20)
    await redis.go_away()
    with pytest.raises(RegistryUnavailable):
        await service.resize(TENANT, made.container_id, 128, None, 40)
    assert runtime.limits[made.container_id] == (64, made.cpu_limit_percent, 20)
    await redis.come_back()
    seen = await service.get(TENANT, made.container_id)
    assert (seen.memory_limit_mb, seen.pids_limit) == (64, 20)


async def test_a_resize_that_the_kernel_refuses_leaves_the_record(
    service: ContainerService, runtime: FakeContainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await new(service, memory_limit_mb=64)

    async def refuse(container_id: str, memory_mb: int, cpu_percent: int, pids: int) -> None:
        if memory_mb == 16:
            raise InvalidValue("it uses more")

    monkeypatch.setattr(runtime, "resize", refuse)
    with pytest.raises(InvalidValue, match="uses more"):
        await service.resize(TENANT, made.container_id, 16, None, None)
    assert (await service.get(TENANT, made.container_id)).memory_limit_mb == 64


async def test_an_environment_that_can_not_be_written_down_is_not_taken(
    service: ContainerService, redis: RedisHandle
) -> None:
    ctr = (await new(service, environment={"A": "1"})).container_id
    await redis.go_away()
    with pytest.raises(RegistryUnavailable):
        await service.set_environment(TENANT, ctr, {"A": "2", "B": "3"}, replace=False)
    await redis.come_back()
    assert service.environment(TENANT, ctr) == {"A": "1"}
    assert await service.set_environment(TENANT, ctr, {"B": "3"}, replace=False) == {"A": "1", "B": "3"}


async def test_states_refuse_what_they_must(service: ContainerService) -> None:
    ctr = (await new(service)).container_id
    with pytest.raises(Conflict):
        await service.signal(TENANT, ctr, 1, 9)
    await service.pause(TENANT, ctr)
    with pytest.raises(Conflict, match="paused"):
        await service.start(TENANT, ctr)
    with pytest.raises(ContainerNotRunning):
        service.running(TENANT, ctr)
    await service.resume(TENANT, ctr)
    await service.stop(TENANT, ctr, 1)
    for refused in (service.pause(TENANT, ctr), service.usage(TENANT, ctr), service.processes(TENANT, ctr)):
        with pytest.raises(ContainerNotRunning):
            await refused
    with pytest.raises(Conflict):
        await service.resume(TENANT, ctr)
    assert (await service.stop(TENANT, ctr, 1)).state is State.EXITED


async def test_the_commands_end_is_recorded_and_the_container_stays(
    service: ContainerService, runtime: FakeContainers
) -> None:
    made = await new(service, command=["sleep", "1"])
    assert made.exit_code is None
    runtime.live[made.container_id].end_main(3)
    await until(service, made.container_id, lambda r: r.exit_code == 3)
    seen = await service.get(TENANT, made.container_id)
    assert (seen.state, seen.exit_reason) == (State.RUNNING, "exited")
    stopped = await service.stop(TENANT, made.container_id, 1)
    assert (stopped.exit_code, stopped.exit_reason) == (3, "exited")


async def test_a_command_that_ends_as_it_starts_is_restarted(
    service: ContainerService, runtime: FakeContainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end may be told before its start has been answered."""
    real = runtime.start

    async def start(spec: object) -> object:
        live = await real(spec)  # type: ignore[arg-type]
        start_main = live.link.start_main  # type: ignore[union-attr]

        async def ends_at_once(command: object) -> int:
            pid = await start_main(command)  # type: ignore[arg-type]
            if len(live.mains) == 1:
                live.end_main(1)
            return pid

        monkeypatch.setattr(live.link, "start_main", ends_at_once)
        return live

    monkeypatch.setattr(runtime, "start", start)
    made = await new(service, command=["false"], restart="on-failure")
    await until(service, made.container_id, lambda r: r.restart_count == 1 and r.exit_code is None)
    assert len(runtime.live[made.container_id].mains) == 2


async def followed(service: ContainerService, container_id: str) -> None:
    """Until the followed log ends."""
    async with asyncio.timeout(patience(10)):
        async for _ in service.logs(TENANT, container_id, limit=10, follow=True):
            pass


async def test_who_follows_a_log_is_let_go_when_its_command_has_ended(
    service: ContainerService, runtime: FakeContainers
) -> None:
    await followed(service, (await new(service, "none")).container_id)
    await followed(service, (await new(service, "missing", command=["missing"], restart="always")).container_id)
    made = await new(service, command=["work"])
    following = asyncio.create_task(followed(service, made.container_id))
    done, _ = await asyncio.wait([following], timeout=0.5)
    assert not done
    runtime.live[made.container_id].end_main(0)
    await following
    await service.stop(TENANT, made.container_id, 0)
    await followed(service, made.container_id)


@pytest.mark.parametrize("end", ["stop", "delete"])
async def test_who_follows_a_log_stays_while_its_command_comes_back(
    service: ContainerService, runtime: FakeContainers, end: str
) -> None:
    made = await new(service, command=["work"], restart="always")
    following = asyncio.create_task(followed(service, made.container_id))
    runtime.live[made.container_id].end_main(1)
    await until(service, made.container_id, lambda r: r.restart_count == 1)
    runtime.die(made.container_id, "init_died")
    await until(service, made.container_id, lambda r: r.restart_count == 2 and r.state is State.RUNNING)
    done, _ = await asyncio.wait([following], timeout=0.5)
    assert not done
    if end == "stop":
        await service.stop(TENANT, made.container_id, 0)
    else:
        await service.delete(TENANT, made.container_id)
    await following


async def test_its_working_directory_is_made_or_nothing_is(service: ContainerService, runtime: FakeContainers) -> None:
    made = await new(service, working_directory="/srv/app")
    live = runtime.live[made.container_id]
    assert (live.folders, live.mains) == (["/srv/app"], [])
    asked = len(runtime.asked)
    with pytest.raises(InvalidValue, match="/etc/passwd/x: Not a directory"):
        await new(service, name="wrong", working_directory="/etc/passwd/x", command=["true"])
    assert [each.split()[0] for each in runtime.asked[asked:]] == ["start", "stop", "delete"]
    assert [record.name for record in (await service.list(TENANT, 10, None, None, {}))[0]] == [made.name]


async def test_a_pause_that_is_broken_off_is_undone(
    service: ContainerService, runtime: FakeContainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await new(service)
    frozen = False

    async def pause(container_id: str) -> None:
        nonlocal frozen
        frozen = True
        raise SpawnerError("the spawner went away in the middle of this")

    async def resume(container_id: str) -> None:
        nonlocal frozen
        frozen = False

    monkeypatch.setattr(runtime, "pause", pause)
    monkeypatch.setattr(runtime, "resume", resume)
    with pytest.raises(SpawnerError, match="in the middle"):
        await service.pause(TENANT, made.container_id)
    assert ((await service.get(TENANT, made.container_id)).state, frozen) == (State.RUNNING, False)


async def test_a_memory_kill_is_told_apart(service: ContainerService, runtime: FakeContainers) -> None:
    made = await new(service, command=["eat"])
    runtime.oom_kills = 1
    runtime.live[made.container_id].end_main(137)
    await until(service, made.container_id, lambda r: r.exit_reason == "out_of_memory")


@pytest.mark.parametrize("reason", ["init_died", "out_of_memory"])
async def test_an_init_that_dies(service: ContainerService, runtime: FakeContainers, reason: str) -> None:
    made = await new(service, command=["sleep"])
    runtime.die(made.container_id, reason)
    await until(service, made.container_id, lambda r: r.state is State.EXITED)
    seen = await service.get(TENANT, made.container_id)
    assert (seen.exit_code, seen.exit_reason) == (137, reason)
    assert (await service.start(TENANT, made.container_id)).state is State.RUNNING


async def test_a_verb_right_after_an_inits_death_knows_its_reason(
    service: ContainerService, runtime: FakeContainers
) -> None:
    made = await new(service)
    runtime.die(made.container_id, "out_of_memory")
    assert (await service.stop(TENANT, made.container_id, 1)).exit_reason == "out_of_memory"


async def test_one_that_comes_back_does_so_also_where_redis_was_away_at_its_end(
    service: ContainerService, redis: RedisHandle, runtime: FakeContainers
) -> None:
    looking = asyncio.create_task(service.run())
    made = await new(service, restart="always")
    await redis.go_away()
    runtime.die(made.container_id, "init_died")
    await asyncio.sleep(0.3)  # what was told of its end has failed by then
    await redis.come_back()
    await until(service, made.container_id, lambda r: r.state is State.RUNNING and r.restart_count == 1)
    looking.cancel()


async def test_one_that_comes_back_does_so_also_where_a_verb_saw_its_end_first(
    service: ContainerService, runtime: FakeContainers
) -> None:
    made = await new(service, restart="always")
    runtime.die(made.container_id, "init_died")
    await service.rename(TENANT, made.container_id, "other")
    await until(service, made.container_id, lambda r: r.state is State.RUNNING and r.restart_count == 1)
    assert (await service.get(TENANT, made.container_id)).name == "other"


async def test_a_command_is_restarted_while_redis_is_away_and_written_down_later(
    service: ContainerService, link: RedisLink, redis: RedisHandle, runtime: FakeContainers
) -> None:
    made = await new(service, command=["work"], restart="always")
    live = runtime.live[made.container_id]
    await redis.go_away()
    live.end_main(1)

    async def again() -> bool:
        return len(live.mains) == 2

    await holds(again)
    await redis.come_back()

    async def written() -> bool:
        kept = await link.run(link.client.hget(keys.container(TENANT, made.container_id), "kept"))
        return bool(json.loads(kept)["restart_count"] == 1)

    await holds(written)


async def test_restart_always_brings_it_back_until_it_is_stopped(
    service: ContainerService, runtime: FakeContainers
) -> None:
    made = await new(service, restart="always")
    runtime.die(made.container_id, "init_died")
    await until(service, made.container_id, lambda r: r.state is State.RUNNING and r.restart_count == 1)
    runtime.fail_starts = SpawnerError("no room")
    runtime.die(made.container_id, "init_died")
    await until(service, made.container_id, lambda r: r.exit_reason == "not_started")
    stopped = await service.stop(TENANT, made.container_id, 1)
    count = stopped.restart_count
    runtime.fail_starts = None
    await asyncio.sleep(1.0)  # longer than any pause that was begun: nothing must come of it
    seen = await service.get(TENANT, made.container_id)
    assert (seen.state, seen.restart_count) == (State.EXITED, count)


async def test_time_to_live_deletes_it(service: ContainerService) -> None:
    await new(service, ttl_seconds=0.01)
    upkeep = asyncio.create_task(service.run())
    await none_is_there(service)
    upkeep.cancel()
    await asyncio.gather(upkeep, return_exceptions=True)


# --- another node process ---------------------------------------------------------------------------------------------


async def test_the_next_node_takes_over_what_runs(
    service: ContainerService, make_service: MakeService, runtime: FakeContainers
) -> None:
    made = await new(service, command=["sleep"])
    paused = await new(service, "two")
    await service.pause(TENANT, paused.container_id)
    again = await make_service()
    assert (await again.get(TENANT, made.container_id)).state is State.RUNNING
    assert (await again.get(TENANT, paused.container_id)).state is State.PAUSED
    runtime.live[made.container_id].end_main(0)
    await until(again, made.container_id, lambda r: r.exit_code == 0)
    assert len(runtime.live[made.container_id].mains) == 1


async def test_limits_that_were_half_changed_are_made_what_the_record_says(
    service: ContainerService, make_service: MakeService, runtime: FakeContainers
) -> None:
    made = await new(service, memory_limit_mb=64, pids_limit=20)
    await runtime.resize(made.container_id, 128, 100, 40)  # all that a node did of it before it was killed
    again = await make_service()
    seen = await again.get(TENANT, made.container_id)
    assert (seen.memory_limit_mb, seen.pids_limit) == (64, 20)
    assert runtime.limits[made.container_id] == (64, seen.cpu_limit_percent, 20)


async def test_a_command_that_ended_while_no_node_was_there_is_restarted(
    service: ContainerService, make_service: MakeService, runtime: FakeContainers
) -> None:
    made = await new(service, command=["sleep"], restart="always")
    live = runtime.live[made.container_id]
    live.main_exit = 5
    again = await make_service()
    await until(again, made.container_id, lambda r: r.restart_count == 1)
    assert len(live.mains) == 2


@pytest.mark.parametrize(
    ("restart", "reason", "state"),
    [
        ("no", "platform_ended", State.EXITED),
        ("on-failure", "platform_ended", State.EXITED),
        ("on-failure", "init_died", State.RUNNING),
        ("always", "platform_ended", State.RUNNING),
    ],
)
async def test_what_ran_when_the_platform_went_down(
    service: ContainerService, make_service: MakeService, runtime: FakeContainers, restart: str, reason: str,
    state: State,
) -> None:  # fmt: skip
    made = await new(service, restart=restart)
    runtime.live.clear()
    runtime.ended[made.container_id] = reason
    again = await make_service()
    if state is State.EXITED:
        seen = await again.get(TENANT, made.container_id)
        assert (seen.state, seen.exit_reason) == (state, reason)
    else:
        await until(again, made.container_id, lambda r: r.state is state)


async def test_what_was_stopped_stays_so(
    service: ContainerService, make_service: MakeService, runtime: FakeContainers
) -> None:
    made = await new(service, restart="always")
    await service.stop(TENANT, made.container_id, 1)
    again = await make_service()
    await asyncio.sleep(0.3)  # longer than the first pause
    assert (await again.get(TENANT, made.container_id)).state is State.EXITED
    assert runtime.live == {}


@pytest.mark.parametrize("half", [State.STARTING, State.STOPPING, State.DELETING])
@pytest.mark.parametrize("runs", [True, False])
async def test_what_a_node_left_half_done_is_settled_by_the_next(
    service: ContainerService, make_service: MakeService, runtime: FakeContainers, half: State, runs: bool
) -> None:
    made = await new(service, command=["sleep"])
    entry = service._registry.get(TENANT, made.container_id)
    way = {
        State.STARTING: [State.STOPPING, State.EXITED, State.STARTING],
        State.STOPPING: [State.STOPPING],
        State.DELETING: [State.STOPPING, State.EXITED, State.DELETING],
    }
    for state in way[half]:
        await service._registry.move(entry, state)
    if not runs:
        runtime.live.clear()
    again = await make_service()
    if half is State.DELETING:
        assert (await names(again), runtime.layers) == ([], set())
        return
    seen = await again.get(TENANT, made.container_id)
    assert seen.state is (State.RUNNING if half is State.STARTING and runs else State.EXITED)
    await again.delete(TENANT, made.container_id)
    assert runtime.layers == set()


async def test_a_half_done_start_that_can_never_be_finished_is_given_up(
    service: ContainerService, make_service: MakeService, runtime: FakeContainers
) -> None:
    made = await new(service)
    entry = service._registry.get(TENANT, made.container_id)
    entry.kept.spec = entry.spec.model_copy(update={"working_directory": "/etc/passwd/x"})
    for state in (State.STOPPING, State.EXITED, State.STARTING):
        await service._registry.move(entry, state)
    again = await make_service()
    seen = await again.get(TENANT, made.container_id)
    assert (seen.state, seen.exit_reason, runtime.live) == (State.EXITED, "not_started", {})
    assert "Not a directory" in (seen.error_message or "")


async def test_output_of_containers_that_are_no_more_is_removed(make_service: MakeService, tmp_path: Path) -> None:
    old = tmp_path / "logs" / "ctr_gone"
    old.mkdir(parents=True)
    (old / "0").write_bytes(b"x")
    await make_service()
    assert not old.exists()


async def test_redis_away_at_a_create(service: ContainerService, redis: RedisHandle, runtime: FakeContainers) -> None:
    await redis.go_away()
    with pytest.raises(RegistryUnavailable):
        await new(service)
    await redis.come_back()
    assert runtime.asked == []
    await new(service)
