"""The registry: names unique, versions moved by compare-and-set and fenced, everything found again after a restart."""

from __future__ import annotations

import time

import pytest

from pool import keys_in_redis as keys
from pool.functions import ASKED_DELETING, ASKED_PAUSED, FunctionEntry, checked_spec
from pool.redis_link import RedisLink
from pool.registry import Registry
from quilt_fn.errors import Conflict, FunctionNotFound, NameTaken, RegistryUnavailable
from quilt_fn.states import VersionState
from tests.contract.conftest import RedisHandle

SPEC = checked_spec({"handler": "main:handler", "bundle_id": "b" * 64, "secrets": {"A": "1"}})


@pytest.fixture
def registry(link: RedisLink) -> Registry:
    registry = Registry(link, time.time)
    registry.incarnation = 5
    return registry


async def again(link: RedisLink) -> Registry:
    registry = Registry(link, time.time)
    await registry.load()
    return registry


async def ready(registry: Registry, entry: FunctionEntry, number: int) -> None:
    await registry.move_version(entry, number, VersionState.BUILDING)
    await registry.move_version(entry, number, VersionState.READY, built={"ms": {"boot": 1.0}})


async def test_what_is_written_is_loaded(registry: Registry, link: RedisLink) -> None:
    entry = await registry.create("default", "hello", SPEC)
    await ready(registry, entry, 1)
    await registry.add_version(entry, SPEC.model_copy(update={"timeout_seconds": 5.0}))
    await registry.move_version(entry, 2, VersionState.BUILDING)
    await registry.move_version(entry, 2, VersionState.FAILED, error="BUILD_FAILED: boom")
    await registry.set_target(entry, 1, 4)
    await registry.set_asked(entry, ASKED_PAUSED)
    assert (await again(link)).get("default", entry.function_id) == entry
    assert (await again(link)).by_name("default", "hello") == entry


async def test_a_create_that_redis_did_not_take_whole_leaves_nothing(
    registry: Registry, link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(await link.client.keys("*"))

    async def away(_entry: FunctionEntry) -> str:
        raise RegistryUnavailable("gone in the middle")

    with monkeypatch.context() as patched:
        patched.setattr(registry, "_claim", away)
        with pytest.raises(RegistryUnavailable):
            await registry.create("default", "hello", SPEC)
    assert set(await link.client.keys("*")) > before
    await registry.tidy()
    assert set(await link.client.keys("*")) == before
    await registry.create("default", "hello", SPEC)


async def test_names_are_unique_in_a_tenant_also_between_processes(registry: Registry, link: RedisLink) -> None:
    await registry.create("default", "hello", SPEC)
    await registry.create("another", "hello", SPEC)
    keys_before = set(await link.client.keys("*"))
    other_process = Registry(link, time.time)
    for each in (registry, other_process):
        with pytest.raises(NameTaken):
            await each.create("default", "hello", SPEC)
    assert set(await link.client.keys("*")) == keys_before


async def test_a_name_whose_function_is_missing_is_free(registry: Registry, link: RedisLink) -> None:
    await link.client.hset(keys.names("default"), "hello", "fn_gone")
    entry = await registry.create("default", "hello", SPEC)
    assert await link.client.hget(keys.names("default"), "hello") == entry.function_id.encode()


async def test_a_function_that_never_got_its_name_is_removed_at_the_next_start(
    registry: Registry, link: RedisLink
) -> None:
    entry = await registry.create("default", "hello", SPEC)
    await link.client.hset(keys.names("default"), "hello", "fn_other")
    await link.client.hset(keys.function("fn_other"), "tenant_id", "default")
    assert (await again(link)).find("default", entry.function_id) is None
    assert not await link.client.exists(keys.function(entry.function_id), keys.version(entry.function_id, 1))


async def test_a_version_moves_only_along_its_table(registry: Registry) -> None:
    entry = await registry.create("default", "hello", SPEC)
    with pytest.raises(Conflict, match="pending"):
        await registry.move_version(entry, 1, VersionState.READY)
    await ready(registry, entry, 1)
    with pytest.raises(Conflict) as caught:
        await registry.move_version(entry, 1, VersionState.BUILDING)
    assert caught.value.details == {"state": "ready"}


async def test_an_older_incarnation_is_refused(registry: Registry, link: RedisLink) -> None:
    entry = await registry.create("default", "hello", SPEC)
    await registry.move_version(entry, 1, VersionState.BUILDING)
    newer = await again(link)
    newer.incarnation = 6
    await newer.move_version(newer.get("default", entry.function_id), 1, VersionState.FAILED, error="NODE_RESTARTED")
    with pytest.raises(Conflict, match="fenced"):
        await registry.move_version(entry, 1, VersionState.READY)
    with pytest.raises(Conflict, match="fenced"):
        await registry.move_version(entry, 1, VersionState.BUILDING)


async def test_current_moves_only_up_and_only_when_ready(registry: Registry) -> None:
    entry = await registry.create("default", "hello", SPEC)
    await registry.add_version(entry, SPEC)
    await registry.move_version(entry, 1, VersionState.BUILDING)
    await ready(registry, entry, 2)
    assert entry.current == 2
    await registry.move_version(entry, 1, VersionState.READY)
    assert entry.current == 2


async def test_deleting_frees_the_name_and_refuses_all_else(registry: Registry, link: RedisLink) -> None:
    entry = await registry.create("default", "hello", SPEC)
    await registry.set_asked(entry, ASKED_DELETING)
    assert registry.find_name("default", "hello") is None
    for refused in (registry.add_version(entry, SPEC), registry.set_target(entry, 1, 2)):
        with pytest.raises(FunctionNotFound):
            await refused
    other = await registry.create("default", "hello", SPEC)
    await registry.delete(entry)
    await registry.delete(entry)
    assert (await again(link)).by_name("default", "hello").function_id == other.function_id
    assert [key for key in await link.client.keys("*") if entry.function_id.encode() in key] == []


async def test_while_redis_is_away_nothing_changes(registry: Registry, redis: RedisHandle) -> None:
    entry = await registry.create("default", "hello", SPEC)
    await redis.go_away()
    with pytest.raises(RegistryUnavailable):
        await registry.set_asked(entry, ASKED_PAUSED)
    with pytest.raises(RegistryUnavailable):
        await registry.add_version(entry, SPEC)
    assert (entry.asked, entry.newest) == ("", 1)
    assert registry.find_name("default", "hello") is entry
    await redis.come_back()
