"""Leases: one incarnation at a time, renewed by the clock of Redis, and nothing judged that can't be known."""

from __future__ import annotations

import pytest

from pool import keys_in_redis as keys
from pool.leases import Lease
from pool.redis_link import RedisLink
from quilt_fn.errors import PlatformHeld, RegistryUnavailable
from tests.contract.conftest import RedisHandle


class Time:
    at = 0.0

    def __call__(self) -> float:
        return self.at


async def test_a_newer_incarnation_fences_the_older(link: RedisLink) -> None:
    old, new = Lease(link, "node_1"), Lease(link, "node_1")
    first = await old.take()
    await old.renew()
    assert await new.take() == first + 1
    with pytest.raises(PlatformHeld):
        await old.renew()
    assert old.lost
    await old.drop()
    await new.renew()
    assert await link.client.hexists(keys.leases(), "node_1")
    await new.drop()
    assert not await link.client.hexists(keys.leases(), "node_1")


async def test_a_lease_that_is_gone_is_made_anew(link: RedisLink) -> None:
    lease = Lease(link, "node_1")
    await lease.take()
    await link.client.delete(keys.leases())
    await lease.renew()
    assert await link.client.hexists(keys.leases(), "node_1")


async def test_lapsed_are_those_not_renewed_and_never_oneself(link: RedisLink) -> None:
    time = Time()
    mine, other = Lease(link, "node_1", time), Lease(link, "node_2", time)
    await mine.take()
    await other.take()
    time.at = 100
    assert await mine.lapsed(after_s=50) == []
    await link.client.hset(keys.leases(), "node_2", "1 1000")
    await link.client.hset(keys.leases(), "node_1", "2 1000")
    assert await mine.lapsed(after_s=50) == ["node_2"]


async def test_nothing_is_judged_while_redis_is_away_nor_soon_after(link: RedisLink, redis: RedisHandle) -> None:
    time = Time()
    lease = Lease(link, "node_1", time)
    await lease.take()
    await link.client.hset(keys.leases(), "node_2", "1 1000")
    time.at = 100
    await redis.go_away()
    assert await lease.lapsed(after_s=50) == []
    with pytest.raises(RegistryUnavailable):
        await lease.renew()
    await redis.come_back()
    await lease.renew()
    assert await lease.lapsed(after_s=50) == []
    time.at = 150
    assert await lease.lapsed(after_s=50) == ["node_2"]
