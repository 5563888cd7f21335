"""Answers to requests with an Idempotency-Key: once, in turn, over a restart, bounded, and with Redis away."""

from __future__ import annotations

import asyncio

import pytest

from pool import keys_in_redis as keys
from pool.api import Answer
from pool.redis_link import RedisLink
from pool.replays import BODY_AT_MOST, Replays
from quilt_fn.errors import RegistryUnavailable
from tests.contract.conftest import RedisHandle

ANSWER = Answer(201, b'{"a": "\xc3\xa4"}', "application/json", "f1")
PLACE = ("t1", "POST /api/functions", "k-1")


def replays(link: RedisLink, incarnation: int = 1, node_id: str = "node_1", **options: float) -> Replays:
    made = Replays(link, node_id, **options)  # type: ignore[arg-type]
    made.incarnation = incarnation
    return made


async def test_the_first_answer_is_everybodys_also_after_a_restart(link: RedisLink) -> None:
    first = replays(link)
    assert await first.begin(*PLACE) is None
    await first.keep(*PLACE, ANSWER)
    assert await first.begin(*PLACE) == ANSWER
    assert await replays(link, 2).begin(*PLACE) == ANSWER
    for other in (("t2", *PLACE[1:]), ("t1", "POST /api/keys", "k-1"), (*PLACE[:2], "k-2")):
        assert await replays(link, 2).begin(*other) is None


async def test_those_who_come_meanwhile_wait(link: RedisLink) -> None:
    here, there = replays(link), replays(link, node_id="node_2")
    assert await here.begin(*PLACE) is None
    waiting = [asyncio.create_task(each.begin(*PLACE)) for each in (here, here, there)]
    done, _ = await asyncio.wait(waiting, timeout=0.05)
    assert not done
    await here.keep(*PLACE, ANSWER)
    assert await asyncio.gather(*waiting) == [ANSWER] * 3


async def test_after_a_failure_exactly_one_of_those_who_wait_is_first(link: RedisLink) -> None:
    here = replays(link)
    found = await asyncio.gather(*(asyncio.wait_for(here.begin(*PLACE), 0.2) for _ in range(3)), return_exceptions=True)
    assert found.count(None) == 1 and sum(isinstance(each, TimeoutError) for each in found) == 2
    waiting = [asyncio.create_task(here.begin(*PLACE)) for _ in range(2)]
    await asyncio.sleep(0)
    await here.give_up(*PLACE)
    done, others = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert [each.result() for each in done] == [None] and len(others) == 1
    await here.keep(*PLACE, ANSWER)
    assert [await each for each in others] == [ANSWER]


async def test_a_claim_of_a_dead_incarnation_is_free(link: RedisLink) -> None:
    assert await replays(link, 1).begin(*PLACE) is None
    assert await replays(link, 2).begin(*PLACE) is None


async def test_a_secret_never_reaches_redis(link: RedisLink) -> None:
    here = replays(link)
    secret = Answer(201, b"quilt_sk_secret", "application/json", "f1", secret=True)
    assert await here.begin(*PLACE) is None
    await here.keep(*PLACE, secret)
    assert await here.begin(*PLACE) == secret
    stored = b"".join(await link.client.hvals(keys.replays("t1")))
    assert stored and b"quilt_sk" not in stored and b"cXVpbHRfc2" not in stored  # nor in base64
    after = await replays(link, 2).begin(*PLACE)
    assert after is not None and after.secret and after.body == b""


async def test_bounded_in_number_size_and_time(link: RedisLink) -> None:
    here = replays(link, keep_at_most=2)
    for number in range(3):
        assert await here.begin("t1", "s", str(number)) is None
        await here.keep("t1", "s", str(number), ANSWER)
    assert await link.client.hlen(keys.replays("t1")) == await link.client.zcard(keys.replay_order("t1")) == 2
    assert await here.begin("t1", "s", "0") is None
    assert await here.begin("t2", "s", "large") is None
    await here.keep("t2", "s", "large", Answer(201, b"x" * (BODY_AT_MOST + 1), "text/plain", "f"))
    assert await here.begin("t2", "s", "large") is None
    soon = replays(link, keep_s=0.0)
    assert await soon.begin("t3", "s", "k") is None
    await soon.keep("t3", "s", "k", ANSWER)
    assert await soon.begin("t3", "s", "k") is None


async def test_while_redis_is_away_nothing_begins_and_an_answer_is_remembered(
    link: RedisLink, redis: RedisHandle
) -> None:
    here = replays(link)
    assert await here.begin(*PLACE) is None
    await redis.go_away()
    with pytest.raises(RegistryUnavailable):
        await here.begin(*PLACE[:2], "k-2")
    await here.keep(*PLACE, ANSWER)
    assert await here.begin(*PLACE) == ANSWER
    await redis.come_back()
    assert await here.begin(*PLACE) == ANSWER
    assert await here.begin(*PLACE[:2], "k-2") is None
    await redis.go_away()
    await here.give_up(*PLACE[:2], "k-2")
    await redis.come_back()
    assert await here.begin(*PLACE[:2], "k-2") is None
