"""A write that Redis made and whose answer was lost: its caller is told that it failed, so it must not have happened.

On both kinds of Redis, for each kind of write: the same call works when it is repeated, and a node that starts anew
finds what the callers were told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from pool.platform import Platform
from pool.redis_link import RedisLink
from quilt_fn.errors import QuiltError, RegistryUnavailable
from quilt_fn.model.container import ContainerCreate
from quilt_fn.model.function import FunctionCreate, FunctionUpdate
from quilt_fn.model.network import ServiceCreate
from quilt_fn.model.volume import VolumeCreate
from tests.contract.conftest import MakePlatform
from tests.fakes.runtime import FakeRuntime

T = "t"
Step = Callable[[Platform], Awaitable[Any]]


@contextmanager
def answers_lost(link: RedisLink, monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[list[int]]:
    """The first `after` answers come, of the rest nobody hears though all is done. Counts those that were lost."""
    seen, lost, real = [0], [0], link.run

    async def run(command: Awaitable[Any]) -> Any:
        answer = await real(command)
        seen[0] += 1
        if seen[0] > after:
            lost[0] += 1
            raise RegistryUnavailable("the answer was lost")
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(link, "run", run)
        yield lost


async def view(platform: Platform) -> dict[str, Any]:
    """What a caller can see of the tenant, without times and ids."""
    functions = (await platform.list(T, 50, None))[0]
    containers = (await platform.containers.list(T, 50, None, None, {}))[0]
    services = [
        service.name for each in containers for service in platform.services.list(T, each.container_id, 50, None)[0]
    ]
    return {
        "functions": sorted((f.name, f.state, f.version, f.min_instances, f.max_instances) for f in functions),
        "containers": sorted(
            (c.name, c.state, c.memory_limit_mb, platform.containers.environment(T, c.container_id).get("A"))
            for c in containers
        ),
        "volumes": sorted((v.name, v.state) for v in (await platform.volumes.list(T, 50, None))[0]),
        "services": services,
        "keys": sorted(key["name"] for key in (await platform.keys(T, 50, None))[0]),
    }


async def function(platform: Platform) -> str:
    bundle_id = await platform.put_source(T, "main.py", "def handler(event): pass")
    created = await platform.create(T, FunctionCreate(name="f", handler="main:handler", bundle_id=bundle_id))
    return created.id


async def deployed(platform: Platform) -> str:
    found = await function(platform)
    await platform.deploy(T, found)
    return found


async def container(platform: Platform) -> str:
    return (await platform.containers.create(T, ContainerCreate(name="c", image="host"))).container_id


async def volume(platform: Platform) -> str:
    return (await platform.volumes.create(T, VolumeCreate(name="v"))).name


async def nothing(_platform: Platform) -> str:
    return ""


async def update(platform: Platform, found: str) -> object:
    return await platform.update(T, found, FunctionUpdate(timeout_seconds=5))


async def publish(platform: Platform, found: str) -> object:
    return await platform.services.create(T, found, ServiceCreate(name="web", target_port=80))


@dataclass
class Write:
    """`before` makes what is there already; `work` is the call whose answers are lost. `stands_after`: so many answers
    have come, and what was asked for stands, though not all that follows from it could be begun; the error says so.
    """

    before: Callable[[Platform], Awaitable[str]]
    work: Callable[[Platform, str], Awaitable[object]]
    stands_after: int = 9


WRITES = {
    "create a function": Write(nothing, lambda platform, _: function(platform)),
    "update a function": Write(deployed, update, stands_after=1),
    "pause a function": Write(deployed, lambda platform, found: platform.pause(T, found)),
    "delete a function": Write(deployed, lambda platform, found: platform.delete(T, found)),
    "scale a function": Write(deployed, lambda platform, found: platform.set_pool_target(T, found, 0, 3)),
    "create a container": Write(nothing, lambda platform, _: container(platform)),
    "rename a container": Write(container, lambda platform, found: platform.containers.rename(T, found, "d")),
    "pause a container": Write(container, lambda platform, found: platform.containers.pause(T, found)),
    "resize a container": Write(container, lambda platform, found: platform.containers.resize(T, found, 64, 10, 20)),
    "change an environment": Write(
        container, lambda platform, found: platform.containers.set_environment(T, found, {"A": "1"}, replace=False)
    ),
    "create a volume": Write(nothing, lambda platform, _: volume(platform)),
    "rename a volume": Write(volume, lambda platform, found: platform.volumes.rename(T, found, "w")),
    "delete a volume": Write(volume, lambda platform, found: platform.volumes.delete(T, found), stands_after=1),
    "publish a service": Write(container, publish),
    "create a key": Write(nothing, lambda platform, _: platform.create_key(T, "k")),
}


@pytest.mark.parametrize("after", [0, 1, 2, 3])
@pytest.mark.parametrize("what", WRITES)
async def test_what_failed_for_its_caller_has_not_happened(
    make_platform: MakePlatform, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, what: str, after: int
) -> None:
    write = WRITES[what]
    platform = await make_platform(runtime)
    found = await write.before(platform)
    before = await view(platform)
    failed = False
    with answers_lost(platform._link, monkeypatch, after) as lost:
        try:
            await write.work(platform, found)
        except QuiltError as error:
            assert isinstance(error, RegistryUnavailable)
            failed = True
    if not failed or after >= write.stands_after:
        assert after or not lost[0], "it heard nothing, and said that it was done"
        return
    await platform._link.tidy()
    await settled(platform)
    assert await view(platform) == before
    again = await make_platform(runtime)
    assert await view(again) == before
    await write.work(again, found)


async def settled(platform: Platform) -> None:
    """What the platform looks after each second, at once."""
    for entry in platform._container_registry.all():
        await platform.containers._settle(entry)
