"""Published services on fakeredis and on a real redis-server: who gets in, names, limits, restarts, and how they end.

Not here: what passes through the ingress (tests/integration/test_published_services.py).
"""

from __future__ import annotations

import pytest

from pool import keys_in_redis as keys
from pool.platform import Platform
from quilt_fn.errors import (
    Conflict,
    ContainerNotFound,
    Forbidden,
    NameTaken,
    QuotaExceeded,
    RegistryUnavailable,
    ServiceNotFound,
    Unauthenticated,
    Unavailable,
)
from quilt_fn.model.container import ContainerCreate
from quilt_fn.model.network import ServiceCreate
from tests.contract.conftest import MakePlatform, RedisHandle
from tests.fakes.calls import until
from tests.fakes.runtime import FakeRuntime


async def container(platform: Platform, name: str = "web", tenant: str = "t", **spec: object) -> str:
    made = await platform.containers.create(tenant, ContainerCreate.model_validate({"name": name, **spec}))
    return made.container_id


def app(name: str = "app", **more: object) -> ServiceCreate:
    return ServiceCreate.model_validate({"name": name, "target_port": 8000, **more})


async def test_its_token_opens_it_and_is_kept_by_nobody(platform: Platform, redis: RedisHandle) -> None:
    ctr = await container(platform)
    made = await platform.services.create("t", ctr, app())
    assert made.token is not None and made.path == f"/linx/{made.service_id}/" and made.expires_at is None
    door = platform.services.door(made.service_id, ["wrong", made.token])
    assert (door.service_id, door.port) == (made.service_id, 8000)
    with pytest.raises(Unauthenticated):
        platform.services.door(made.service_id, [])
    with pytest.raises(Forbidden):
        platform.services.door(made.service_id, ["wrong", ""])
    client = redis.client()
    kept = b"".join((await client.hgetall(keys.services())).values())
    await client.aclose()
    assert made.token.encode() not in kept and b"token_sha256" in kept
    listed, after = platform.services.list("t", ctr, 10, None)
    assert [(each.name, each.token) for each in listed] == [("app", None)] and after is None


async def test_a_public_one_asks_for_nothing(platform: Platform) -> None:
    ctr = await container(platform)
    made = await platform.services.create("t", ctr, app(auth_mode="public"))
    assert made.token is None and platform.services.door(made.service_id, []).port == 8000


async def test_names_are_unique_in_a_container_and_there_are_so_many(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pool.network.published.EACH", 2)
    ctr, other = await container(platform), await container(platform, "other")
    await platform.services.create("t", ctr, app())
    with pytest.raises(NameTaken):
        await platform.services.create("t", ctr, app())
    await platform.services.create("t", other, app())
    second = await platform.services.create("t", ctr, app("second"))
    with pytest.raises(QuotaExceeded) as full:
        await platform.services.create("t", ctr, app("third"))
    assert full.value.details == {"quota": "services", "limit": 2, "used": 2, "asked": 1}
    assert full.value.retry_after is None
    await platform.services.delete("t", ctr, second.service_id)
    await platform.services.create("t", ctr, app("third"))


async def test_another_tenants_container_is_not_there(platform: Platform) -> None:
    ctr, theirs = await container(platform), await container(platform, tenant="t2")
    made = await platform.services.create("t", ctr, app())
    with pytest.raises(ContainerNotFound):
        await platform.services.create("t2", ctr, app())
    with pytest.raises(ContainerNotFound):
        platform.services.list("t2", ctr, 10, None)
    with pytest.raises(ContainerNotFound):
        await platform.services.delete("t2", ctr, made.service_id)
    with pytest.raises(ServiceNotFound):
        await platform.services.delete("t2", theirs, made.service_id)
    assert platform.services.door(made.service_id, [str(made.token)])


async def test_without_a_network_there_is_nothing_to_publish(platform: Platform) -> None:
    ctr = await container(platform, network="none")
    with pytest.raises(Conflict):
        await platform.services.create("t", ctr, app())


async def test_a_stopped_containers_service_waits_for_it(platform: Platform) -> None:
    ctr = await container(platform)
    made = await platform.services.create("t", ctr, app(auth_mode="public"))
    await platform.containers.stop("t", ctr, 0.0)
    with pytest.raises(Unavailable) as away:
        platform.services.door(made.service_id, [])
    assert away.value.details == {"state": "exited"} and away.value.retry_after == 1
    await platform.containers.start("t", ctr)
    assert platform.services.door(made.service_id, []).port == 8000


async def test_it_goes_with_its_container_and_with_its_time(platform: Platform, redis: RedisHandle) -> None:
    ctr, other = await container(platform), await container(platform, "other")
    gone = await platform.services.create("t", ctr, app(auth_mode="public"))
    brief = await platform.services.create("t", other, app("brief", auth_mode="public", ttl_secs=0.01))
    stays = await platform.services.create("t", other, app("stays", auth_mode="public"))
    await platform.containers.delete("t", ctr)
    await until(lambda: not _open(platform, gone.service_id) and not _open(platform, brief.service_id))
    assert _open(platform, stays.service_id)
    client = redis.client()
    while set(await client.hkeys(keys.services())) != {stays.service_id.encode()}:  # swept at the delete
        platform.services._gone.set()
        await platform.services._link.client.ping()
    await client.aclose()


def _open(platform: Platform, service_id: str) -> bool:
    try:
        platform.services.door(service_id, [])
    except ServiceNotFound:
        return False
    except Unavailable:
        return True
    return True


async def test_a_restart_finds_them(make_platform: MakePlatform, runtime: FakeRuntime) -> None:
    first = await make_platform(runtime)
    ctr = await container(first)
    made = await first.services.create("t", ctr, app())
    second = await make_platform(FakeRuntime())
    listed, _ = second.services.list("t", ctr, 10, None)
    assert [each.service_id for each in listed] == [made.service_id]
    with pytest.raises(Forbidden):
        second.services.door(made.service_id, ["wrong"])
    with pytest.raises(Unavailable):  # no container came over to this runtime
        second.services.door(made.service_id, [str(made.token)])


async def test_what_redis_did_not_take_is_not_there(platform: Platform, redis: RedisHandle) -> None:
    ctr = await container(platform)
    kept = await platform.services.create("t", ctr, app())
    await redis.go_away()
    with pytest.raises(RegistryUnavailable):
        await platform.services.create("t", ctr, app("new"))
    with pytest.raises(RegistryUnavailable):
        await platform.services.delete("t", ctr, kept.service_id)
    assert [each.name for each in platform.services.list("t", ctr, 10, None)[0]] == ["app"]
    assert platform.services.door(kept.service_id, [str(kept.token)])
    await redis.come_back()
