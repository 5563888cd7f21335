"""`Client.operations`, `Client.events` and their commands, against a gateway over a platform in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from quilt_fn.cli.main import run
from quilt_fn.client import Client
from quilt_fn.errors import OperationEnded, OperationNotFound, Unavailable
from quilt_fn.states import OperationStatus
from tests.fakes.calls import until
from tests.fakes_gateway.http import Http, serving
from tests.fakes_gateway.platform import KEY, FakePlatform
from tests.unit.test_gateway_operations import begun


@asynccontextmanager
async def connected(platform: FakePlatform) -> AsyncIterator[tuple[Client, Http]]:
    async with serving(platform) as http:
        client = Client(http.url, KEY)
        try:
            yield client, http
        finally:
            await client.close.aio()


async def test_get_list_wait_and_cancel() -> None:
    platform = FakePlatform()
    first, second = await begun(platform), await begun(platform)
    async with connected(platform) as (client, _):
        assert (await client.operations.get.aio(first)).status is OperationStatus.ACCEPTED
        assert [each.operation_id for each in (await client.operations.list.aio()).items] == [second, first]
        with pytest.raises(Unavailable, match=f"{first} has not ended within 0.01 s"):
            await client.operations.wait.aio(first, 0.01)
        waiting = asyncio.create_task(client.operations.wait.aio(first))
        platform.operations.end(first, OperationStatus.FAILED)
        assert (await waiting).status is OperationStatus.FAILED
        assert (await client.operations.cancel.aio(second)).status is OperationStatus.CANCELLED
        with pytest.raises(OperationEnded):
            await client.operations.cancel.aio(second)
        with pytest.raises(OperationNotFound):
            await client.operations.wait.aio("op_none")
        assert (await client.operations.list.aio(status="failed")).items[0].operation_id == first


async def test_events_go_on_where_the_connection_broke() -> None:
    platform = FakePlatform()
    async with connected(platform) as (client, _):
        stream = client.events.aio(function_id="fn_1")
        ready = await anext(stream)
        assert ready.kind == "ready" and ready.id is not None
        platform.events.publish("t1", "function_update", {"function_id": "fn_1", "state": "active"})
        event = await anext(stream)
        assert (event.kind, event.data["state"], event.id) == ("function_update", "active", ready.id + 1)
        for listener in tuple(platform.events._logs["t1"].listeners):
            listener.close()  # the server ends the stream; what comes now is missed
        platform.events.publish("t1", "function_update", {"function_id": "fn_1", "state": "paused"})
        assert (await anext(stream)).kind == "ready"
        missed = await anext(stream)
        assert (missed.data["state"], missed.id) == ("paused", event.id + 1)
        await stream.aclose()
        await until(lambda: not platform.events.listened("t1"))


async def test_events_without_a_platform_are_unavailable() -> None:
    client = Client("http://127.0.0.1:9", KEY)
    with pytest.raises(Unavailable):
        await anext(client.events.aio())
    await client.close.aio()


async def test_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    platform = FakePlatform()
    first, second = await begun(platform), await begun(platform)
    platform.operations.end(first, OperationStatus.FAILED)
    async with serving(platform) as http:
        monkeypatch.setenv("QUILT_URL", http.url)
        monkeypatch.setenv("QUILT_API_KEY", KEY)

        async def quilt(*arguments: str) -> tuple[int, str]:
            code = await asyncio.to_thread(run, arguments)
            return code, capsys.readouterr().out

        code, out = await quilt("operations", "list", "--json")
        assert code == 0 and [each["operation_id"] for each in json.loads(out)["operations"]] == [second, first]
        code, out = await quilt("operations", "list")
        assert code == 0 and "image.build" in out and "failed" in out
        assert (await quilt("operations", "get", first, "--wait"))[0] == 5
        assert (await quilt("operations", "get", "op_none"))[0] == 3
        code, out = await quilt("operations", "cancel", second, "--wait", "--json")
        assert code == 0 and json.loads(out)["status"] == "cancelled"
        assert (await quilt("operations", "cancel", second))[0] == 6
        platform.events.publish("t1", "function_update", {"function_id": "fn_1", "state": "active", "counts": {}})
        code, out = await quilt("events", "--after", "0", "--limit", "1")
        assert code == 0 and "function_update function_id=fn_1 state=active" in out
        code, out = await quilt("events", "--after", "9999", "--limit", "1", "--json")
        assert code == 0 and [json.loads(line)["event"] for line in out.splitlines()] == ["ready", "gap"]


@pytest.mark.parametrize("how", [OperationStatus.SUCCEEDED, OperationStatus.FAILED])
async def test_a_node_that_is_away_is_waited_for(how: OperationStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quilt_fn.operations.RECONNECT_S", (0.01,))
    monkeypatch.setattr("quilt_fn.connection.RETRY_PAUSES_S", ())
    platform = FakePlatform()
    first = await begun(platform)
    async with connected(platform) as (client, _):
        asked = 0
        ask = client.operations._client._json

        async def away(*arguments: object, **how: object) -> dict[str, object]:
            nonlocal asked
            asked += 1
            if asked < 20:
                raise Unavailable("no platform answers")
            return await ask(*arguments, **how)  # type: ignore[arg-type]

        monkeypatch.setattr(client, "_json", away)
        platform.operations.end(first, how)
        assert (await client.operations.wait.aio(first)).status is how
        assert asked == 20


async def test_it_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quilt_fn.operations.RECONNECT_S", (0.01,))
    monkeypatch.setattr("quilt_fn.connection.RETRY_PAUSES_S", ())
    client = Client("http://127.0.0.1:9", KEY)
    with pytest.raises(Unavailable, match="no platform answers"):
        await client.operations.wait.aio("op_1", 0.05)
    monkeypatch.setattr("quilt_fn.operations.AWAY_MAX_S", 0.05)
    with pytest.raises(Unavailable, match="no platform answers"):
        await client.operations.wait.aio("op_1")
    await client.close.aio()


async def test_a_batch_that_failed_in_part_is_no_success_for_a_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    platform = FakePlatform()
    first = await begun(platform)
    platform.operations.end(first, OperationStatus.SUCCEEDED)
    async with serving(platform) as http:
        monkeypatch.setenv("QUILT_URL", http.url)
        monkeypatch.setenv("QUILT_API_KEY", KEY)
        assert await asyncio.to_thread(run, ["operations", "get", first, "--wait"]) == 0
        platform.operations.records["t1", first].items = [
            {"name": "a", "status": "succeeded"},
            {"name": "b", "status": "failed"},
        ]
        assert await asyncio.to_thread(run, ["operations", "get", first, "--wait", "--json"]) == 5
        assert '"status": "failed"' in capsys.readouterr().out
