"""The registry: names unique, versions moved by compare-and-set and fenced, everything found again after a restart."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pool import keys_in_redis as keys
from pool.functions import ASKED_DELETING, ASKED_PAUSED, FunctionEntry, checked_spec
from pool.redis_link import RedisLink
from pool.registry import Registry
from pool.sealing import Sealer
from pool.stored_specs import StoredSpecs
from quilt_fn.errors import Conflict, FunctionNotFound, NameTaken, RegistryUnavailable
from quilt_fn.states import FunctionState, VersionState
from tests.contract.conftest import RedisHandle

SPEC = checked_spec({"handler": "main:handler", "bundle_id": "b" * 64, "secrets": {"A": "1"}})


@pytest.fixture
def specs(tmp_path: Path) -> StoredSpecs:
    return StoredSpecs(Sealer(tmp_path / "node" / "secrets.key"))


@pytest.fixture
def registry(link: RedisLink, specs: StoredSpecs) -> Registry:
    registry = Registry(link, time.time, specs)
    registry.incarnation = 5
    return registry


async def again(link: RedisLink, specs: StoredSpecs) -> Registry:
    registry = Registry(link, time.time, specs)
    await registry.load()
    return registry


async def ready(registry: Registry, entry: FunctionEntry, number: int) -> None:
    await registry.move_version(entry, number, VersionState.BUILDING)
    await registry.move_version(entry, number, VersionState.READY, built={"ms": {"boot": 1.0}})


async def test_what_is_written_is_loaded(registry: Registry, link: RedisLink, specs: StoredSpecs) -> None:
    entry = await registry.create("default", "hello", SPEC)
    await ready(registry, entry, 1)
    await registry.add_version(entry, SPEC.model_copy(update={"timeout_seconds": 5.0}))
    await registry.move_version(entry, 2, VersionState.BUILDING)
    await registry.move_version(entry, 2, VersionState.FAILED, error="BUILD_FAILED: boom")
    await registry.set_target(entry, 1, 4)
    await registry.set_asked(entry, ASKED_PAUSED)
    assert (await again(link, specs)).get("default", entry.function_id) == entry
    assert (await again(link, specs)).by_name("default", "hello") == entry


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
    await link.tidy()
    assert set(await link.client.keys("*")) == before
    await registry.create("default", "hello", SPEC)


async def test_names_are_unique_in_a_tenant_also_between_processes(
    registry: Registry, link: RedisLink, specs: StoredSpecs
) -> None:
    await registry.create("default", "hello", SPEC)
    await registry.create("another", "hello", SPEC)
    keys_before = set(await link.client.keys("*"))
    other_process = Registry(link, time.time, specs)
    for each in (registry, other_process):
        with pytest.raises(NameTaken):
            await each.create("default", "hello", SPEC)
    assert set(await link.client.keys("*")) == keys_before


async def test_a_name_whose_function_is_missing_is_free(registry: Registry, link: RedisLink) -> None:
    await link.client.hset(keys.names("default"), "hello", "fn_gone")
    entry = await registry.create("default", "hello", SPEC)
    assert await link.client.hget(keys.names("default"), "hello") == entry.function_id.encode()


async def test_a_function_that_never_got_its_name_is_removed_at_the_next_start(
    registry: Registry, link: RedisLink, specs: StoredSpecs
) -> None:
    entry = await registry.create("default", "hello", SPEC)
    await link.client.hset(keys.names("default"), "hello", "fn_other")
    await link.client.hset(keys.function("fn_other"), "tenant_id", "default")
    assert (await again(link, specs)).find("default", entry.function_id) is None
    assert not await link.client.exists(keys.function(entry.function_id), keys.version(entry.function_id, 1))


async def test_a_version_moves_only_along_its_table(registry: Registry) -> None:
    entry = await registry.create("default", "hello", SPEC)
    with pytest.raises(Conflict, match="pending"):
        await registry.move_version(entry, 1, VersionState.READY)
    await ready(registry, entry, 1)
    with pytest.raises(Conflict) as caught:
        await registry.move_version(entry, 1, VersionState.BUILDING)
    assert caught.value.details == {"state": "ready"}


async def test_an_older_incarnation_is_refused(registry: Registry, link: RedisLink, specs: StoredSpecs) -> None:
    entry = await registry.create("default", "hello", SPEC)
    await registry.move_version(entry, 1, VersionState.BUILDING)
    newer = await again(link, specs)
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


async def test_deleting_frees_the_name_and_refuses_all_else(
    registry: Registry, link: RedisLink, specs: StoredSpecs
) -> None:
    entry = await registry.create("default", "hello", SPEC)
    await registry.set_asked(entry, ASKED_DELETING)
    assert registry.find_name("default", "hello") is None
    for refused in (registry.add_version(entry, SPEC), registry.set_target(entry, 1, 2)):
        with pytest.raises(FunctionNotFound):
            await refused
    other = await registry.create("default", "hello", SPEC)
    await registry.delete(entry)
    await registry.delete(entry)
    assert (await again(link, specs)).by_name("default", "hello").function_id == other.function_id
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


# secrets

SECRETS = SPEC.model_copy(update={"secrets": {"DB_PASSWORD": "hunter2-of-a-kind"}})


async def kept(link: RedisLink) -> bytes:
    """All that Redis has of versions."""
    found = [await link.client.hgetall(key) for key in await link.client.keys("*version*")]
    assert found
    return repr(found).encode()


async def test_secrets_lie_sealed_and_come_back(registry: Registry, link: RedisLink, specs: StoredSpecs) -> None:
    entry = await registry.create("default", "hello", SECRETS)
    await registry.add_version(entry, SECRETS)
    raw = await kept(link)
    assert b"hunter2" not in raw and b"DB_PASSWORD" not in raw
    found = (await again(link, specs)).get("default", entry.function_id)
    assert found == entry and found.versions[2].spec.secrets == SECRETS.secrets


async def test_plain_secrets_of_before_are_read_and_sealed(
    registry: Registry, link: RedisLink, specs: StoredSpecs
) -> None:
    entry = await registry.create("default", "hello", SECRETS)
    key = keys.version(entry.function_id, 1)
    await link.client.hset(key, "spec", SECRETS.model_dump_json())
    assert b"hunter2" in await kept(link)
    assert (await again(link, specs)).get("default", entry.function_id) == entry
    assert b"hunter2" not in await kept(link)
    assert (await again(link, specs)).get("default", entry.function_id) == entry


async def test_with_another_key_the_function_says_so_and_an_update_brings_it_back(
    registry: Registry, link: RedisLink, specs: StoredSpecs, tmp_path: Path
) -> None:
    entry = await registry.create("default", "hello", SECRETS)
    await ready(registry, entry, 1)
    other = await again(link, StoredSpecs(Sealer(tmp_path / "other.key")))
    other.incarnation = 6
    broken = other.get("default", entry.function_id)
    assert broken.state is FunctionState.ERROR and "secrets.key" in broken.newest_version.error
    assert (await again(link, specs)).get("default", entry.function_id).state is FunctionState.ACTIVE
    await other.add_version(broken, SECRETS)
    await ready(other, broken, 2)
    assert broken.state is FunctionState.ACTIVE


async def test_a_seal_opens_at_its_own_place_only(registry: Registry, link: RedisLink, specs: StoredSpecs) -> None:
    theirs = await registry.create("default", "theirs", SECRETS)
    mine = await registry.create("another", "mine", SPEC)
    stolen = await link.client.hget(keys.version(theirs.function_id, 1), "spec")
    await link.client.hset(keys.version(mine.function_id, 1), "spec", stolen)
    found = (await again(link, specs)).get("another", mine.function_id).versions[1]
    assert found.state is VersionState.FAILED and not found.spec.secrets
