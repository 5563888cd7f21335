"""Rate limits of keys, and Idempotency-Key on routes that answer 202 or hold a secret."""

from __future__ import annotations

import asyncio

import pytest

from gateway.app import ROUTES
from gateway.limits import RateLimits
from quilt_fn.errors import RateLimited
from quilt_fn.settings import Settings
from tests.fakes_gateway.http import serving
from tests.fakes_gateway.platform import OTHER_KEY, FakePlatform

SPEC = {"name": "hello", "handler": "main:handler", "source": "def handler(event): return event"}


class Time:
    at = 100.0

    def __call__(self) -> float:
        return self.at


def test_a_bucket_empties_and_fills_for_each_key_alone() -> None:
    time = Time()
    limits = RateLimits(2.0, 3, time)
    for _ in range(3):
        limits.take("k1")
    with pytest.raises(RateLimited) as raised:
        limits.take("k1")
    assert raised.value.retry_after == 0.5
    limits.take("k2")
    time.at += 0.5
    limits.take("k1")
    with pytest.raises(RateLimited):
        limits.take("k1")
    time.at += 3600
    for _ in range(3):
        limits.take("k1")
    with pytest.raises(RateLimited):
        limits.take("k1")


def test_off_is_nothing_at_all() -> None:
    assert RateLimits.of(Settings()) is None


async def test_a_key_over_its_limit_is_429_on_the_api_and_on_functions() -> None:
    platform = FakePlatform()
    platform.add("hello")
    async with serving(platform, rate_limit_per_s=0.001, rate_limit_burst=2) as http:
        assert (await http("GET", "/api/functions")).status == 200
        assert (await http("POST", "/fn/hello", data=b"{}")).status == 200
        for method, path in (("GET", "/api/functions"), ("POST", "/fn/hello")):
            reply = await http(method, path)
            assert (reply.status, reply.code) == (429, "RATE_LIMITED")
            assert int(reply.headers["Retry-After"]) > 900
        assert (await http("GET", "/api/functions", key=OTHER_KEY)).status == 200
        assert (await http("GET", "/health", key=None)).status == 200
        assert len(platform.calls) == 1


async def test_a_control_routes_replay_is_409_with_its_operation() -> None:
    platform = FakePlatform()
    path = "/api/elasticity/control/functions/fn_hello/pool-target"
    headers, body = {"X-Tenant-Id": "t1", "Idempotency-Key": "k"}, {"min_instances": 1, "max_instances": 2}
    async with serving(platform) as http:
        missing = await http("POST", path, headers=headers, json=body)
        assert (missing.status, missing.code) == (404, "FUNCTION_NOT_FOUND")
        await http("POST", "/api/functions", json=SPEC)
        first = await http("POST", path, headers=headers, json=body)
        assert first.status == 202
        again = await http("POST", path, headers=headers, json=body)
        assert (again.status, again.code) == (409, "CONFLICT")
        assert again.json["details"] == {"operation_id": first.json["operation_id"]}
        assert len(platform.operations.records) == 1
        result = await platform.operations.works[first.json["operation_id"]](lambda *_: None)  # type: ignore[arg-type]
        assert result is not None and result["function_id"] == "fn_hello"
        assert (await http("POST", path, headers={"X-Tenant-Id": "t2"}, json=body)).status == 403


async def test_a_keys_replay_is_the_same_key_and_409_when_that_is_forgotten() -> None:
    platform = FakePlatform()
    headers = {"Idempotency-Key": "k"}
    async with serving(platform) as http:
        first = await http("POST", "/api/keys", json={"name": "a"}, headers=headers)
        again = await http("POST", "/api/keys", json={"name": "a"}, headers=headers)
        assert (again.status, again.body, platform.creates) == (201, first.body, 1)
        platform.replays._memory.clear()
        lost = await http("POST", "/api/keys", json={"name": "a"}, headers=headers)
        assert (lost.status, lost.code, platform.creates) == (409, "CONFLICT", 1)


async def test_two_at_once_do_it_once() -> None:
    platform = FakePlatform()
    headers = {"Idempotency-Key": "k"}
    async with serving(platform) as http:
        replies = await asyncio.gather(*(http("POST", "/api/functions", json=SPEC, headers=headers) for _ in range(5)))
        assert {reply.body for reply in replies} == {replies[0].body} and replies[0].status == 201
        assert platform.creates == 1


@pytest.mark.parametrize("key", ["x" * 256, "\u00e4"])
async def test_a_key_that_is_none_is_refused(key: str) -> None:
    async with serving(FakePlatform()) as http:
        reply = await http("POST", "/api/functions", json=SPEC, headers={"Idempotency-Key": key})
        assert (reply.status, reply.code) == (400, "INVALID_REQUEST")


def test_every_create_and_every_202_takes_an_idempotency_key() -> None:
    for route in ROUTES:
        assert route.replays == (route.status in (201, 202)), route.path
