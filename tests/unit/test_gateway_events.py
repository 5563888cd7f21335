"""/api/events over HTTP: the stream's shape, resuming, heartbeats, leaving, shutdown, wrong input."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import orjson
import pytest

from gateway import events
from tests.fakes.calls import until
from tests.fakes_gateway.http import serving
from tests.fakes_gateway.platform import KEY, FakePlatform
from tests.slowness import patience


async def frames(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, str]]:
    fields: dict[str, str] = {}
    async for line in response.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        else:
            yield fields
            fields = {}


async def test_ready_then_events_with_a_key_in_the_query_and_a_resume() -> None:
    platform = FakePlatform()
    async with serving(platform) as http:
        url = f"{http.url}/api/events?container_id=ctr_1&token={KEY}"
        async with http.session.get(url) as response:
            assert (response.status, response.content_type) == (200, "text/event-stream")
            stream = frames(response)
            ready = await anext(stream)
            assert ready["event"] == "ready" and orjson.loads(ready["data"])["filters"] == {"container_id": "ctr_1"}
            platform.events.publish("t1", "container_update", {"container_id": "ctr_2"})
            platform.events.publish("t1", "container_update", {"container_id": "ctr_1", "text": "a\nb"})
            event = await anext(stream)
            assert int(event["id"]) == int(ready["id"]) + 2 and event["event"] == "container_update"
            assert orjson.loads(event["data"]).items() >= {"container_id": "ctr_1", "text": "a\nb"}.items()
        await until(lambda: not platform.events.listened("t1"))  # the client that left was noticed
        headers = {"Last-Event-ID": ready["id"], "X-Api-Key": KEY}
        async with http.session.get(f"{http.url}/api/events", headers=headers) as response:
            stream = frames(response)
            assert "id" not in await anext(stream)
            assert [(await anext(stream))["id"] for _ in range(2)] == [str(int(ready["id"]) + 1), event["id"]]


async def test_a_gap_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    platform = FakePlatform()
    platform.events.incarnation = 7
    async with serving(platform) as http:
        headers = {"Last-Event-ID": "12", "X-Api-Key": KEY}
        async with http.session.get(f"{http.url}/api/events", headers=headers) as response:
            stream = frames(response)
            await anext(stream)
            gap = await anext(stream)
            assert (gap["event"], gap["id"]) == ("gap", str(7 << 32))


async def test_heartbeats_come_while_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.02)
    async with (
        serving(FakePlatform()) as http,
        http.session.get(f"{http.url}/api/events", headers={"X-Api-Key": KEY}) as response,
    ):
        stream = frames(response)
        assert [(await anext(stream))["event"] for _ in range(3)] == ["ready", "heartbeat", "heartbeat"]


async def test_a_shutdown_ends_the_stream() -> None:
    platform = FakePlatform()
    async with aiohttp.ClientSession() as session:
        async with serving(platform, shutdown_seconds=20.0) as http:
            response = await session.get(f"{http.url}/api/events", headers={"X-Api-Key": KEY})
            await anext(frames(response))
        async with asyncio.timeout(patience(5)):
            assert [frame async for frame in frames(response)] == []
        response.close()


async def test_wrong_input() -> None:
    async with serving(FakePlatform()) as http:
        assert (await http("GET", "/api/events", key=None)).code == "UNAUTHENTICATED"
        assert (await http("GET", "/api/events?token=x", key=None)).code == "FORBIDDEN"
        for last in ("x", "-1", "1" * 30):
            reply = await http("GET", "/api/events", headers={"Last-Event-ID": last})
            assert (reply.status, reply.code) == (422, "INVALID_VALUE")
