"""The client against a fake gateway: routes, retries, and that everything the gateway raises is raised again."""

from __future__ import annotations

import inspect
import socket
import ssl
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from aiohttp import web

from quilt_fn import Client, errors
from quilt_fn.client import DeployStep
from quilt_fn.errors import (
    BuildFailed,
    Forbidden,
    FunctionNotFound,
    InternalError,
    InvalidValue,
    LimitReached,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from quilt_fn.model.function import FunctionCreate, FunctionRecord, FunctionUpdate
from quilt_fn.transport import Request, translate
from tests.fakes_sdk.gateway import KEY, FakeGateway


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway() as running:
        yield running


@pytest.fixture
def client(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr("quilt_fn.connection.RETRY_PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr("quilt_fn.connection.RATE_WAIT_MAX_S", 0.0)
    made = Client(gateway.url, KEY)
    yield made
    made.close()


SPEC = FunctionCreate(name="f", handler="m:f", bundle_id="0" * 64)


@pytest.mark.parametrize("code", sorted(errors.all_errors()))
def test_what_the_gateway_raises_the_client_raises_again(client: Client, gateway: FakeGateway, code: str) -> None:
    cls = errors.all_errors()[code]
    gateway.fail_next(cls("the text", details={"a": 1}, hint="do this"), times=4)
    with pytest.raises(cls) as caught:
        client.get_function("fn_1")
    assert type(caught.value) is cls
    assert (caught.value.message, caught.value.details, caught.value.hint) == ("the text", {"a": 1}, "do this")


def test_every_route(client: Client, gateway: FakeGateway) -> None:
    assert client.health() == {"status": "ok"}
    gateway.bundles[SPEC.bundle_id or ""] = b""
    made = client.create_function(SPEC)
    function_id = made["function_id"]
    record = client.function_by_name("f")
    assert record == client.get_function(function_id) == client.list_functions().items[0]
    assert client.update_function(function_id, FunctionUpdate(memory_limit_mb=512)).memory_limit_mb == 512
    assert client.pause(function_id).id == client.resume(function_id).id == function_id
    assert client.invoke("f", {"x": 1}).result == {"ok": True}
    assert client.invocation(function_id, "inv_1").invocation_id == "inv_1"
    assert client.invocations(function_id, status="failed").items == []
    assert client.pool(function_id).ready_count == client.pool_stats()[0].ready_count == 1
    assert client.set_pool_target(record, 1, 2).total_count == 1
    assert client.drop_template(function_id) is True
    assert client.keys().items[0]["key_id"] == "key_1" and client.create_key("new")["key"] == KEY
    client.delete_key("key_1")
    assert client.system() and "quilt_up" in client.metrics()
    client.delete_function(function_id)
    with pytest.raises(FunctionNotFound):
        client.get_function(function_id)


async def test_the_async_side(gateway: FakeGateway) -> None:
    client = Client(gateway.url, KEY)
    await client.create_function.aio(SPEC)
    assert (await client.function_by_name.aio("f")).name == "f"
    gateway.log_lines = [{"t": 1.0, "stream": "stdout", "invocation_id": "inv_1", "text": "x" * 300_000}]
    assert [len(line["text"]) async for line in client.logs.aio("fn_0")] == [300_000]
    await client.close.aio()


def test_deploy_tells_each_step_and_raises_what_the_build_raises(client: Client, gateway: FakeGateway) -> None:
    bundle_id = client.put_bundle(EMPTY)
    function_id = client.create_function(SPEC.model_copy(update={"bundle_id": bundle_id}))["function_id"]
    steps: list[DeployStep] = []
    record = client.deploy(function_id, steps.append)
    assert isinstance(record, FunctionRecord) and record.state == "active"
    done = [(step.stage, step.ms) for step in steps if step.done]
    assert done == [(stage, 1.5) for stage in ("bundle", "layer", "boot", "import", "snapshot")]
    gateway.build_error = BuildFailed("boom", details={"stage": "import", "traceback": "Traceback"})
    with pytest.raises(BuildFailed, match="boom") as caught:
        client.deploy(function_id)
    assert caught.value.details == {"stage": "import", "traceback": "Traceback"}


def test_a_deploy_that_breaks_off(client: Client, gateway: FakeGateway) -> None:
    async def half(_request: web.Request) -> web.Response:
        return web.Response(body=b'{"event":"progress","stage":"boot","text":""}\n')

    gateway.override = half
    with pytest.raises(Unavailable, match="broke off"):
        client.deploy("fn_0")


@pytest.mark.parametrize("text", ["hello", "5", '{"a": 1}', ""])
def test_a_text_payload_arrives_as_the_text_that_it_is(client: Client, gateway: FakeGateway, text: str) -> None:
    import json

    client.create_function(SPEC)
    client.invoke("f", text, environment={"A": "b"}, timeout_s=3)
    assert json.loads(gateway.events[0]["payload"]) == text
    assert gateway.events[0]["environment"] == {"A": "b"} and gateway.events[0]["timeout_seconds"] == 3


def test_safe_requests_are_tried_again_where_the_failure_passes(client: Client, gateway: FakeGateway) -> None:
    gateway.fail_next(LimitReached("busy"), times=2)
    assert client.list_functions().items == []
    assert gateway.requests == [("GET", "/api/functions")] * 3


def test_others_are_not(client: Client, gateway: FakeGateway) -> None:
    client.create_function(SPEC)
    for call in (lambda: client.invoke("f"), lambda: client.call("f"), lambda: client.delete_function("fn_0"),
                 lambda: client.update_function("fn_0", FunctionUpdate())):  # fmt: skip
        gateway.requests.clear()
        gateway.fail_next(Unavailable("later"))
        with pytest.raises(Unavailable):
            call()
        assert len(gateway.requests) == 1
    gateway.requests.clear()
    gateway.fail_next(InvalidValue("never"))
    with pytest.raises(InvalidValue):
        client.list_functions()
    assert len(gateway.requests) == 1


def test_no_key_and_a_wrong_key(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("QUILT_API_KEY", raising=False)
    with pytest.raises(Unauthenticated) as caught:
        Client(gateway.url).list_functions()
    assert "QUILT_API_KEY" in str(caught.value.hint)
    with pytest.raises(Forbidden):
        Client(gateway.url, "quilt_sk_wrong").list_functions()


def test_nobody_there_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quilt_fn.connection.RETRY_PAUSES_S", ())
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="no platform answers") as caught:
            Client(f"http://127.0.0.1:{held.getsockname()[1]}", KEY).list_functions()
    assert "quilt up" in str(caught.value.hint)


def test_a_url_that_is_none() -> None:
    for url in ("ftp://x", "nonsense", "http://"):
        with pytest.raises(InvalidValue, match="is not a URL"):
            Client(url, KEY).health()


def test_somebody_else_s_server(client: Client, gateway: FakeGateway) -> None:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<html>nginx</html>", status=502)

    gateway.override = page
    with pytest.raises(InternalError, match="answered 502 without an error body"):
        client.health()

    async def text(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    gateway.override = text
    with pytest.raises(InternalError, match="no JSON object"):
        client.health()
    with pytest.raises(InternalError, match=r"text/plain, not application/vnd\.quilt\.result"):
        client.call("f")


def test_a_connection_that_breaks_is_unavailable(client: Client, gateway: FakeGateway) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    gateway.override = cut
    with pytest.raises(Unavailable, match="broke"):
        client.call("f")
    with pytest.raises(Unavailable, match="broke"):
        list(client.logs("fn_0"))


def test_every_error_of_the_network_is_translated() -> None:
    """The mapping is complete: no class of aiohttp's leaves the transport."""
    found = {aiohttp.ClientError}
    todo = [aiohttp.ClientError]
    while todo:
        for cls in todo.pop().__subclasses__():
            if cls not in found and cls.__module__.startswith("aiohttp"):
                found.add(cls)
                todo.append(cls)
    assert len(found) > 20
    for cls in [*found, OSError, TimeoutError, ssl.SSLError, ConnectionResetError]:
        error = cls.__new__(cls)
        if isinstance(error, aiohttp.ClientConnectorError):
            path = ("/socket",) if cls.__name__.startswith("Unix") else ()
            error.__init__(*path, _ConnectionKey(), OSError(111, "refused"))  # type: ignore[misc]
        elif isinstance(error, aiohttp.ClientResponseError):
            continue  # raised by raise_for_status alone, which is not called; below as one
        elif isinstance(error, aiohttp.InvalidURL):
            error.__init__("x")  # type: ignore[misc]
        else:
            error.args = ("x",)
        assert isinstance(translate(error, "http://h"), (Unavailable, InvalidValue)), cls
    response = aiohttp.ClientResponseError(_info(), (), message="x")
    assert isinstance(translate(response, "http://h"), Unavailable)
    bug = KeyError("ours")
    with pytest.raises(KeyError):
        translate(bug, "http://h")


class _ConnectionKey:
    host, port, ssl, is_ssl = "h", 1, None, False


def _info() -> aiohttp.RequestInfo:
    from multidict import CIMultiDict, CIMultiDictProxy
    from yarl import URL

    return aiohttp.RequestInfo(URL("http://h"), "GET", CIMultiDictProxy(CIMultiDict()), URL("http://h"))


def test_every_public_method_has_both_ways() -> None:
    from quilt_fn.twins import both, both_items

    for name, member in vars(Client).items():
        if not name.startswith("_") and not isinstance(member, property):
            assert isinstance(member, (both, both_items)), name
            assert inspect.iscoroutinefunction(member.__wrapped__) or inspect.isasyncgenfunction(member.__wrapped__)


def _empty() -> bytes:
    from quilt_fn import bundle

    return bundle.pack({"m.py": bundle.Entry(b"")}).data


EMPTY = _empty()


# --- over the key's rate ----------------------------------------------------------------------------------------------


def test_what_was_over_the_rate_is_sent_again_when_the_platform_says(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    client = Client(gateway.url, KEY, on_wait=lambda error, seconds: waits.append(seconds))
    gateway.fail_next(RateLimited("slowly", retry_after=0.05), times=3)
    made = client.create_function(SPEC)  # made once: a 429 was not carried out
    assert made["function_id"] == "fn_0" and len(gateway.functions) == 1
    assert len(waits) == 3 and all(0.05 <= wait <= 0.06 for wait in waits)
    client.close()


def test_it_is_not_waited_for_longer_than_a_minute(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quilt_fn.connection.RATE_WAIT_MAX_S", 0.2)
    client = Client(gateway.url, KEY)
    gateway.fail_next(RateLimited("slowly", retry_after=0.09), times=9)
    with pytest.raises(RateLimited):
        client.list_functions()
    sent = len(gateway.requests)
    assert sent in (2, 3), "once, and again as long as there was time"
    gateway.fail_next(RateLimited("slowly", retry_after=1000))
    client.close()


async def _pieces() -> AsyncIterator[bytes]:
    yield b"1"


async def test_what_was_sent_as_it_came_is_not_sent_again(gateway: FakeGateway) -> None:
    client = Client(gateway.url, KEY)
    gateway.fail_next(RateLimited("slowly", retry_after=0.01))
    with pytest.raises(RateLimited):
        async with client._send(Request("PUT", "/api/volumes/v/files/f", body=_pieces())):
            pass
    await client._transport.close()
