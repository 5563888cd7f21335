"""Volumes' records on fakeredis and on a real redis-server: names are unique, and a restart finishes what was begun."""

from __future__ import annotations

import asyncio

import pytest

from pool.platform import Platform
from quilt_fn.errors import NameTaken, RegistryUnavailable, SpawnerError, VolumeNotFound
from quilt_fn.model.volume import VolumeCreate
from quilt_fn.states import VolumeState
from tests.contract.conftest import MakePlatform, RedisHandle
from tests.fakes.runtime import FakeRuntime
from tests.slowness import patience


async def test_names_are_unique_in_a_tenant(platform: Platform) -> None:
    volumes = platform.volumes
    made = await volumes.create("t", VolumeCreate(name="a", labels={"x": "y"}))
    await volumes.create("t", VolumeCreate(name="b"))
    await volumes.create("other", VolumeCreate(name="a"))
    with pytest.raises(NameTaken):
        await volumes.create("t", VolumeCreate(name="a"))
    with pytest.raises(NameTaken):
        await volumes.rename("t", "b", "a")
    assert (await volumes.rename("t", "a", "c")).volume_id == made.volume_id
    await volumes.rename("t", "b", "a")
    page, cursor = await volumes.list("t", 1, None)
    rest, end = await volumes.list("t", 1, cursor)
    assert sorted(each.name for each in page + rest) == ["a", "c"] and end is None


async def test_a_restart_finds_all_and_finishes_what_was_half_done(
    make_platform: MakePlatform, runtime: FakeRuntime
) -> None:
    first = await make_platform(runtime)
    await first.volumes.create("t", VolumeCreate(name="kept", size_limit_mb=16))
    await first.volumes.create("t", VolumeCreate(name="going"))
    runtime.volumes.hold_drop = asyncio.Event()
    await first.volumes.delete("t", "going")
    registry = first.volumes._registry
    half = registry.get("t", "kept")
    await registry.add(type(half)("vol_half", "t", "half", VolumeState.CREATING, {}, None, half.created_at))
    runtime.volumes.volumes["t", "vol_half"] = {}
    again = FakeRuntime()
    again.volumes.volumes = dict(runtime.volumes.volumes)
    second = await make_platform(again)
    assert [each.name for each in (await second.volumes.list("t", 10, None))[0]] == ["kept"]
    assert [volume_id for _, volume_id in again.volumes.volumes] == [half.volume_id]
    assert (await second.volumes.create("t", VolumeCreate(name="half"))).name == "half"
    runtime.volumes.hold_drop.set()


async def test_without_redis_nothing_is_made_or_deleted(
    platform: Platform, runtime: FakeRuntime, redis: RedisHandle
) -> None:
    await platform.volumes.create("t", VolumeCreate(name="a"))
    await redis.go_away()
    with pytest.raises(RegistryUnavailable):
        await platform.volumes.create("t", VolumeCreate(name="b"))
    with pytest.raises(RegistryUnavailable):
        await platform.volumes.delete("t", "a")
    assert (await platform.volumes.get("t", "a")).state is VolumeState.READY
    await redis.come_back()
    with pytest.raises(VolumeNotFound):
        await platform.volumes.get("t", "b")
    assert len(runtime.volumes.volumes) == 1


async def test_what_could_not_be_removed_when_it_was_due_goes_later(
    platform: Platform, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spawner was away at the delete: the name is free, and the files go without another request."""
    await platform.volumes.create("t", VolumeCreate(name="a"))

    async def away(*_: object) -> None:
        raise SpawnerError("the spawner is away")

    with monkeypatch.context() as patched:
        patched.setattr(runtime.volumes, "drop", away)
        begun = await platform.volumes.delete("t", "a")
        assert (await platform.operations.get("t", begun.operation_id, patience(10))).status == "failed"
        assert len(runtime.volumes.volumes) == 1
    async with asyncio.timeout(patience(10)):
        while runtime.volumes.volumes:  # noqa: ASYNC110 - a look each second takes it, and says nothing
            await asyncio.sleep(0.05)
