"""/fn/<name> and the invoke routes: what the function is sent, and what becomes of its answer."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import orjson
import pytest

from quilt_fn.errors import (
    FunctionFailed,
    FunctionNotDeployed,
    FunctionPaused,
    HandlerError,
    HookFailed,
    InvocationTimeout,
    QueueFull,
    StartFailed,
    from_body,
)
from runtime.api import Call, Failure, Outcome
from tests.fakes_gateway.http import Http, serving
from tests.fakes_gateway.platform import KEY, OTHER_KEY, FakePlatform, Handler
from tests.slowness import patience

CALL = {"Content-Type": "application/vnd.quilt.call"}


@pytest.fixture
def platform() -> FakePlatform:
    fake = FakePlatform()
    fake.add("echo")
    fake.add("open", public=True)
    fake.add("theirs", tenant_id="t2")
    return fake


@pytest.fixture
async def http(platform: FakePlatform) -> AsyncIterator[Http]:
    async with serving(platform, max_body_mb=1) as client:
        yield client


def answers(**fields: Any) -> Handler:
    return lambda _call: Outcome(**fields)


def fails(code: str, type_: str = "ValueError", **fields: Any) -> Handler:
    return answers(failure=Failure(code, type_, "boom", "Traceback …", **fields))


# what is sent


async def test_json_is_handed_on_as_it_came(http: Http, platform: FakePlatform) -> None:
    body = b'{ "a": [1, 2.50] }'
    reply = await http("POST", "/fn/echo", data=body, headers={"Content-Type": "application/json"})
    assert (reply.status, reply.body) == (200, body)
    assert reply.headers["Content-Type"] == "application/json"
    assert (platform.calls[0].kind, platform.calls[0].body) == ("json", body)
    assert platform.calls[0].request is None


async def test_an_answer_carries_its_headers(http: Http, platform: FakePlatform) -> None:
    reply = await http("GET", "/fn/echo", headers={"X-Request-Id": "abc"})
    assert re.fullmatch("inv_[0-9a-f]{20}", reply.headers["X-Quilt-Invocation-Id"])
    assert reply.headers["X-Quilt-Invocation-Id"] == platform.calls[0].invocation_id
    assert reply.headers["X-Quilt-Start"] == "fork"
    assert reply.headers["Server-Timing"] == "queue;dur=0.50, start;dur=3.25, run;dur=1.00"
    assert reply.headers["X-Request-Id"] == "abc"
    assert reply.headers["Date"].endswith(" GMT")


async def test_ids_are_never_the_same(http: Http, platform: FakePlatform) -> None:
    for _ in range(3):
        await http("GET", "/fn/echo")
    assert len({call.invocation_id for call in platform.calls}) == 3


async def test_without_a_body_the_event_is_the_query(http: Http) -> None:
    assert (await http("GET", "/fn/echo")).json == {}
    assert (await http("GET", "/fn/echo?a=1&b=x%20y&a=2&e=")).json == {"a": "2", "b": "x y", "e": ""}
    assert (await http("POST", "/fn/echo/below?a=1")).json == {"a": "1"}


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "application/x+json"])
async def test_json_that_is_none_starts_nothing(http: Http, platform: FakePlatform, content_type: str) -> None:
    reply = await http("POST", "/fn/echo", data=b"{no", headers={"Content-Type": content_type})
    assert (reply.status, reply.code) == (400, "INVALID_REQUEST")
    assert platform.calls == []


@pytest.mark.parametrize(
    ("content_type", "body", "kind", "sent"),
    [
        ("text/plain", b"[1", "text", b"[1"),
        ("text/plain; charset=latin-1", "grün".encode("latin-1"), "text", "grün".encode()),
        (None, b'{"a": 1}', "json", b'{"a": 1}'),
        ("application/x-www-form-urlencoded", b"a=1", "text", b"a=1"),
        ("application/x-www-form-urlencoded", b'{"a": 1}', "json", b'{"a": 1}'),
        ("image/png", b"\x89PNG\xff", "json", None),
    ],
)
async def test_other_bodies(
    http: Http, platform: FakePlatform, content_type: str | None, body: bytes, kind: str, sent: bytes | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    await http("POST", "/fn/echo", data=io.BytesIO(body), headers=headers)
    (call,) = platform.calls
    assert call.kind == kind
    if sent is None:
        encoded = base64.b64encode(body).decode()
        assert orjson.loads(call.body) == {"isBase64Encoded": True, "body": encoded, "content_type": content_type}
    else:
        assert call.body == sent


async def test_a_function_that_sees_the_request_gets_its_body_byte_for_byte(http: Http, platform: FakePlatform) -> None:
    platform.add("app", answers(body=b"1"), wants_request=True)
    await http("POST", "/fn/app", data=b"\x89PNG\xff", headers={"Content-Type": "image/png"})
    await http("GET", "/fn/app?q=1")
    assert [(call.kind, call.body) for call in platform.calls] == [("text", b"\x89PNG\xff"), ("none", b"")]


async def test_bad_text_is_400(http: Http) -> None:
    reply = await http("POST", "/fn/echo", data=b"\xff", headers={"Content-Type": "text/plain"})
    assert (reply.status, reply.code) == (400, "INVALID_REQUEST")


async def test_too_large_a_body_is_413(http: Http, platform: FakePlatform) -> None:
    reply = await http("POST", "/fn/echo", data=io.BytesIO(b"1" * (1024 * 1024 + 1)))
    assert (reply.status, reply.code) == (413, "PAYLOAD_TOO_LARGE")
    assert platform.calls == []


async def test_a_body_that_comes_in_pieces(http: Http) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"[1,", b"2", b"]"):
            yield piece
            await asyncio.sleep(0)

    reply = await http("POST", "/fn/echo", data=pieces(), headers={"Content-Type": "application/json"})
    assert reply.json == [1, 2]


async def test_expect_100_continue(http: Http) -> None:
    reply = await http("POST", "/fn/echo", data=b"[1]", expect100=True)
    assert reply.json == [1]


async def test_the_request_is_shown_without_the_platforms_credentials(http: Http, platform: FakePlatform) -> None:
    platform.add("app", answers(body=b"1"), wants_request=True, public=True)
    headers = {"Cookie": "a=b", "X-Quilt-Timeout-S": "3", "X-Mine": "1"}
    await http("PUT", "/fn/app/a%20b/c?x=1&x=2", headers={**headers, "X-Api-Key": KEY})
    await http("GET", "/fn/app", key=None, headers={"Authorization": f"Bearer {KEY}"})
    await http("GET", "/fn/app", key=None, headers={"Authorization": "Bearer its-own-users-token"})
    seen = [call.request for call in platform.calls]
    assert seen[0] is not None and seen[1] is not None and seen[2] is not None
    assert {k: seen[0][k] for k in ("method", "path", "root_path", "query", "remote")} == {
        "method": "PUT", "path": "/a b/c", "root_path": "/fn/app", "query": "x=1&x=2", "remote": "127.0.0.1",
    }  # fmt: skip
    names = {name.lower() for name, _ in seen[0]["headers"]}
    assert {"cookie", "x-mine", "host"} <= names
    assert not names & {"x-api-key", "authorization", "x-quilt-timeout-s"}
    assert "Authorization" not in {name for name, _ in seen[1]["headers"]}
    assert ["Authorization", "Bearer its-own-users-token"] in seen[2]["headers"]
    assert seen[1]["path"] == "/"


@pytest.mark.parametrize(
    ("authorization", "passes"),
    [("Bearer of-its-own-users", True), ("Basic dTpw", True), (f"Bearer {KEY}", False), (f"bearer  {OTHER_KEY}", False),
     ("Bearer own-key", False)],
)  # fmt: skip
async def test_beside_a_key_only_an_authorization_that_holds_one_too_is_taken_out(
    http: Http, platform: FakePlatform, authorization: str, passes: bool
) -> None:
    platform.add("app", answers(body=b"1"), wants_request=True)
    await http("GET", "/fn/app", key="own-key", headers={"Authorization": authorization})
    request = platform.calls[0].request
    assert request is not None
    assert (["Authorization", authorization] in request["headers"]) is passes
    assert "own-key" not in str(request)


async def test_the_time_limit_can_be_lowered_but_not_raised(http: Http, platform: FakePlatform) -> None:
    for limit, at_most in (("2.5", 2.5), ("3000", 30.0)):
        await http("GET", "/fn/echo", headers={"X-Quilt-Timeout-S": limit})
        left = platform.calls[-1].deadline - time.time()
        assert at_most - 2 < left <= at_most
    for bad in ("0", "-1", "nan", "inf", "soon"):
        reply = await http("GET", "/fn/echo", headers={"X-Quilt-Timeout-S": bad})
        assert (reply.status, reply.code) == (422, "INVALID_VALUE")


async def test_a_call_that_another_python_pickled_is_refused_before_it_is_run(
    http: Http, platform: FakePlatform
) -> None:
    refused = await http("POST", "/fn/echo", data=b"p", headers={**CALL, "X-Quilt-Python": "3.13"})
    assert (refused.status, refused.code) == (422, "PYTHON_MISMATCH")
    assert "Python 3.13" in refused.json["error"] and "Python 3.11" in refused.json["error"]
    assert "3.11" in refused.json["hint"] and platform.calls == []
    for headers in (CALL, {**CALL, "X-Quilt-Python": "3.11"}):  # an older client does not say it
        assert (await http("POST", "/fn/echo", data=b"p", headers=headers)).status == 200
    assert (await http("POST", "/fn/echo", json=1, headers={"X-Quilt-Python": "3.13"})).json == 1


# who may


async def test_who_may_call_what(http: Http) -> None:
    assert (await http("GET", "/fn/echo", key=None)).code == "UNAUTHENTICATED"
    assert (await http("GET", "/fn/nothing", key=None)).status == 401
    assert (await http("GET", "/fn/echo", key="quilt_sk_wrong")).code == "FORBIDDEN"
    assert (await http("GET", "/fn/open", key="quilt_sk_wrong")).status == 403
    assert (await http("GET", "/fn/nothing")).code == "FUNCTION_NOT_FOUND"
    assert (await http("GET", "/fn/theirs")).code == "FUNCTION_NOT_FOUND"
    assert (await http("GET", "/fn/echo", key="own-key")).status == 200
    assert (await http("GET", "/fn/open", key=None)).status == 200
    assert (await http("GET", "/fn/open", key=OTHER_KEY)).status == 200
    own_users = {"Authorization": "Bearer of-its-own-users"}
    assert (await http("GET", "/fn/open", key=None, headers=own_users)).status == 200
    assert (await http("GET", "/fn/echo", key=None, headers=own_users)).status == 403


async def test_a_pickled_call_needs_the_owners_key_also_on_a_public_function(
    http: Http, platform: FakePlatform
) -> None:
    assert (await http("POST", "/fn/open", data=b"p", headers=CALL, key=None)).code == "FORBIDDEN"
    assert (await http("POST", "/fn/open", data=b"p", headers=CALL, key=OTHER_KEY)).code == "FORBIDDEN"
    assert (await http("POST", "/fn/echo", data=b"p", headers=CALL, key=None)).code == "UNAUTHENTICATED"
    assert platform.calls == []
    reply = await http("POST", "/fn/open", data=b"\x80p", headers=CALL)
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/vnd.quilt.result")
    assert (platform.calls[0].kind, platform.calls[0].body) == ("pickle", b"\x80p")


# what comes back


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [("json", "application/json"), ("text", "text/plain; charset=utf-8"), ("bytes", "application/octet-stream")],
)
async def test_kinds_become_content_types(http: Http, platform: FakePlatform, kind: str, content_type: str) -> None:
    for fields in ({}, {"status": 201}):
        platform.add("f", answers(kind=kind, body=b"123", **fields))
        reply = await http("GET", "/fn/f")
        assert (reply.status, reply.body) == (fields.get("status", 200), b"123")
        assert reply.headers["Content-Type"] == content_type


async def test_the_functions_own_headers_win_except_ours(http: Http, platform: FakePlatform) -> None:
    headers = [
        ["Content-Type", "text/html"], ["Set-Cookie", "a=1"], ["Set-Cookie", "b=2"], ["Connection", "close"],
        ["Transfer-Encoding", "chunked"], ["Content-Length", "9999"], ["X-Quilt-Start", "warm"], ["X-Request-Id", "no"],
    ]  # fmt: skip
    platform.add("f", answers(status=404, headers=headers, kind="text", body=b"<p>"))
    async with http.session.get(http.url + "/fn/f", headers={"X-Api-Key": KEY}) as response:
        assert (response.status, await response.read()) == (404, b"<p>")
        assert response.headers["Content-Type"] == "text/html"
        assert response.headers.getall("Set-Cookie") == ["a=1", "b=2"]
        assert response.headers.getall("X-Quilt-Start") == ["fork"]
        assert response.headers["X-Request-Id"] != "no"
        assert "Connection" not in response.headers


async def test_head_and_204_have_no_body(http: Http, platform: FakePlatform) -> None:
    reply = await http("HEAD", "/fn/echo")
    assert (reply.status, reply.body, reply.headers["Content-Length"]) == (200, b"", "2")
    platform.add("f", answers(status=204, kind="json", body=b"null"))
    reply = await http("GET", "/fn/f")
    assert (reply.status, reply.body) == (204, b"")


async def test_a_large_answer_comes_whole(http: Http, platform: FakePlatform) -> None:
    platform.add("f", answers(kind="bytes", body=b"x" * 5_000_000))
    assert len((await http("GET", "/fn/f")).body) == 5_000_000


async def test_http_1_0_and_connection_close(http: Http) -> None:
    host, _, port = http.url.removeprefix("http://").partition(":")
    for head in (b"GET /fn/open HTTP/1.0\r\n", b"GET /fn/open HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head + b"\r\n")
        answer = await reader.read()
        assert answer.startswith(head.split()[2] + b" 200 OK\r\n") and answer.endswith(b"\r\n\r\n{}")
        writer.close()
        await writer.wait_closed()


async def test_absolute_form_and_pipelined_requests(http: Http) -> None:
    host, _, port = http.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET http://x/fn/open?n=1 HTTP/1.1\r\nHost: x\r\n\r\nGET /fn/open?n=2 HTTP/1.1\r\nHost: x\r\n\r\n")
    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    text = await reader.read()
    assert [text.count(part) for part in (b"200 OK", b'{"n":"1"}', b'{"n":"2"}', b'{"status":"ok"}')] == [3, 1, 1, 1]
    assert text.index(b'"1"') < text.index(b'"2"') < text.index(b"status")
    writer.close()
    await writer.wait_closed()


# failures


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("HANDLER_ERROR", 500),
        ("HANDLER_OUT_OF_MEMORY", 500),
        ("INSTANCE_DIED", 502),
        ("INVOCATION_TIMEOUT", 504),
        ("RESULT_NOT_SERIALISABLE", 500),
        ("RESULT_TOO_LARGE", 500),
        ("BAD_EVENT", 400),
        ("SOMETHING_NEW", 500),
    ],
)
async def test_failures_have_their_statuses(http: Http, platform: FakePlatform, code: str, status: int) -> None:
    platform.add("f", fails(code))
    reply = await http("GET", "/fn/f")
    assert reply.status == status
    expected = {"BAD_EVENT": "INVALID_REQUEST", "SOMETHING_NEW": "FUNCTION_FAILED"}.get(code, code)
    assert reply.code == expected
    assert reply.headers["X-Quilt-Invocation-Id"] == reply.json["details"]["invocation_id"]
    assert reply.json["details"]["traceback"] == "Traceback …"


async def test_what_the_gateway_raised_the_client_raises_again(http: Http, platform: FakePlatform) -> None:
    platform.add("f", fails("HANDLER_ERROR"))
    error = from_body((await http("GET", "/fn/f")).json)
    assert isinstance(error, HandlerError)
    assert error.message == "ValueError: boom"


async def test_a_traceback_is_for_the_owner_only(http: Http, platform: FakePlatform) -> None:
    platform.add("f", fails("HANDLER_ERROR"), public=True)
    for key in (None, OTHER_KEY):
        reply = await http("GET", "/fn/f", key=key)
        assert reply.json["details"]["type"] == "ValueError"
        assert "traceback" not in reply.json["details"]
    assert "traceback" in (await http("GET", "/fn/f")).json["details"]


async def test_a_504_names_its_limit(http: Http, platform: FakePlatform) -> None:
    platform.add("f", fails("INVOCATION_TIMEOUT"))
    assert (await http("GET", "/fn/f")).json["details"]["limit"] == "timeout_seconds"
    lowered = await http("GET", "/fn/f", headers={"X-Quilt-Timeout-S": "1"})
    assert lowered.json["details"]["limit"] == "X-Quilt-Timeout-S"
    platform.refuse_invoke = InvocationTimeout("no instance in time", details={"limit": "queue"})
    queued = await http("GET", "/fn/f")
    assert (queued.status, queued.json["details"]["limit"]) == (504, "queue")


@pytest.mark.parametrize(
    ("error", "status"),
    [(QueueFull("full"), 429), (StartFailed("no way left"), 503)],
)
async def test_what_the_pool_refuses(http: Http, platform: FakePlatform, error: Any, status: int) -> None:
    platform.refuse_invoke = error
    reply = await http("GET", "/fn/echo")
    assert (reply.status, reply.code) == (status, error.error_code)
    assert int(reply.headers["Retry-After"]) >= 1


async def test_a_start_that_failed_shows_the_functions_code_to_its_owner_alone(
    http: Http, platform: FakePlatform
) -> None:
    platform.refuse_invoke = HookFailed("a hook failed", details={"stage": "after_restore", "traceback": "T"})
    platform.add("f", answers(), public=True)
    owner = await http("GET", "/fn/f")
    assert (owner.status, owner.code, owner.json["details"]["traceback"]) == (503, "HOOK_FAILED", "T")
    public = await http("GET", "/fn/f", key=None)
    assert public.json["details"].keys() == {"stage", "invocation_id"}


@pytest.mark.parametrize("error", [FunctionNotDeployed("not yet"), FunctionPaused("paused")])
async def test_states_that_refuse(http: Http, platform: FakePlatform, error: Any) -> None:
    platform.refuse_resolve = error
    reply = await http("GET", "/fn/echo")
    assert (reply.status, reply.code) == (409, error.error_code)


async def test_the_unexpected_is_500_without_its_text(http: Http, platform: FakePlatform) -> None:
    def broken(_call: Call) -> Outcome:
        raise ZeroDivisionError("inner")

    platform.add("f", broken)
    reply = await http("GET", "/fn/f")
    assert (reply.status, reply.code) == (500, "INTERNAL_ERROR")
    assert b"inner" not in reply.body


async def test_a_pickled_exception_comes_back_with_the_error_beside_it(http: Http, platform: FakePlatform) -> None:
    failure = Failure("HANDLER_ERROR", "ValueError", "b" * 9000, "head\n" + "t" * 20_000 + "\ntail", b"\x80pickled")
    platform.add("f", answers(failure=failure), public=True)
    reply = await http("POST", "/fn/f", data=b"p", headers=CALL)
    assert (reply.status, reply.body) == (500, b"\x80pickled")
    assert reply.headers["Content-Type"] == "application/vnd.quilt.exception"
    assert reply.headers["X-Quilt-Error-Code"] == "HANDLER_ERROR"
    assert len(reply.headers["X-Quilt-Error"]) < 8000
    beside = orjson.loads(base64.b64decode(reply.headers["X-Quilt-Error"]))
    assert beside["details"]["traceback"].endswith("tail")
    assert beside["details"]["type"] == "ValueError"


# streams


def streaming(make: Callable[[], AsyncIterator[bytes]], **fields: Any) -> Handler:
    return lambda _call: Outcome(kind="text", stream=make(), **fields)


def breaking(failure: Failure, *chunks: bytes) -> Handler:
    """A stream of `chunks` that fails at its end."""

    def handler(_call: Call) -> Outcome:
        async def pieces() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk
            outcome.failure = failure
            raise FunctionFailed(failure.message)

        outcome = Outcome(kind="text", stream=pieces())
        return outcome

    return handler


async def test_a_stream_is_sent_as_it_comes(http: Http, platform: FakePlatform) -> None:
    go_on = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        await go_on.wait()
        yield b""
        yield b"two"

    platform.add("f", streaming(chunks, status=206, headers=[["X-A", "b"]]))
    async with http.session.get(http.url + "/fn/f", headers={"X-Api-Key": KEY}) as response:
        assert response.status == 206
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert (response.headers["X-A"], response.headers["X-Quilt-Start"]) == ("b", "fork")
        assert await response.content.readany() == b"one"
        go_on.set()
        assert await response.read() == b"two"


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [("json", "application/x-ndjson"), ("text", "text/plain; charset=utf-8"), ("bytes", "application/octet-stream")],
)
async def test_a_stream_of_values_is_json_lines(
    http: Http, platform: FakePlatform, kind: str, content_type: str
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"a":1}\n'
        yield b"2\n"

    platform.add("f", lambda _call: Outcome(kind=kind, stream=chunks()))
    reply = await http("GET", "/fn/f")
    assert (reply.headers["Content-Type"], reply.body) == (content_type, b'{"a":1}\n2\n')
    platform.add("f", lambda _call: Outcome(kind=kind, stream=chunks(), headers=[["Content-Type", "a/b"]]))
    assert (await http("GET", "/fn/f")).headers["Content-Type"] == "a/b"


async def test_a_stream_that_fails_before_it_began_is_an_error(http: Http, platform: FakePlatform) -> None:
    platform.add("f", breaking(Failure("HANDLER_ERROR", "ValueError", "boom", "T")), public=True)
    assert (await http("GET", "/fn/f")).json["details"]["traceback"] == "T"
    reply = await http("GET", "/fn/f", key=None)
    assert (reply.status, reply.code) == (500, "HANDLER_ERROR")
    assert "traceback" not in reply.json["details"]


async def test_a_stream_that_fails_in_the_middle_is_cut(http: Http, platform: FakePlatform) -> None:
    platform.add("f", breaking(Failure("HANDLER_ERROR", "ValueError", "boom", "T"), b"one"))
    with pytest.raises(aiohttp.ClientError):
        await http("GET", "/fn/f")
    assert (await http("GET", "/fn/echo")).status == 200
    record = (await http("POST", "/api/functions/invoke/f")).json
    assert (record["status"], record["error_code"]) == ("failed", "HANDLER_ERROR")
    assert record["error"] == {"type": "ValueError", "message": "boom", "traceback": "T"}


async def test_a_client_that_leaves_ends_the_stream(http: Http, platform: FakePlatform) -> None:
    closed = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            await asyncio.Event().wait()
        finally:
            closed.set()

    platform.add("f", streaming(chunks))
    async with aiohttp.ClientSession() as session:
        response = await session.get(http.url + "/fn/f", headers={"X-Api-Key": KEY})
        await response.content.readany()
        response.close()
    async with asyncio.timeout(patience(5)):
        await closed.wait()


async def test_a_client_that_leaves_does_not_cancel_its_invocation(http: Http, platform: FakePlatform) -> None:
    came, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(_call: Call) -> Outcome:
        came.set()
        await go_on.wait()
        ended.set()
        return Outcome(body=b"1")

    platform.add("f", slow)
    async with aiohttp.ClientSession() as session:
        request = asyncio.create_task(session.get(http.url + "/fn/f", headers={"X-Api-Key": KEY}))
        await came.wait()
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
    go_on.set()
    async with asyncio.timeout(patience(5)):
        await ended.wait()


async def test_shutdown_lets_what_runs_finish(platform: FakePlatform) -> None:
    came, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_call: Call) -> Outcome:
        came.set()
        await go_on.wait()
        return Outcome(body=b"1")

    platform.add("f", slow)
    serve = serving(platform)
    http = await serve.__aenter__()
    async with aiohttp.ClientSession() as session:
        request = asyncio.create_task(session.get(http.url + "/fn/f", headers={"X-Api-Key": KEY}))
        await came.wait()
        leaving = asyncio.create_task(serve.__aexit__(None, None, None))
        await asyncio.sleep(0)
        go_on.set()
        response = await request
        assert (response.status, await response.read()) == (200, b"1")
        await leaving


async def test_shutdown_ends_what_will_not_finish(platform: FakePlatform) -> None:
    came, cancelled = asyncio.Event(), asyncio.Event()

    async def endless(_call: Call) -> Outcome:
        came.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return Outcome()

    platform.add("f", endless)
    async with aiohttp.ClientSession() as session:
        async with serving(platform, shutdown_seconds=0.05) as http:
            request = asyncio.create_task(session.post(http.url + "/fn/f", headers={"X-Api-Key": KEY}))
            await came.wait()
        assert cancelled.is_set()
        with pytest.raises(aiohttp.ClientError):
            await request


# the invoke routes


async def test_invoke_answers_with_the_record(http: Http, platform: FakePlatform) -> None:
    body = {"payload": {"a": 1}, "environment": {"X": "y"}, "timeout_seconds": 2}
    reply = await http("POST", "/api/functions/fn_echo/invoke", json=body)
    record = reply.json
    assert (reply.status, record["status"], record["result"]) == (200, "success", {"a": 1})
    assert (record["start"], record["cold_start"], record["version"]) == ("fork", True, 1)
    assert record["timings"] == {"queue_ms": 0.5, "start_ms": 3.25, "run_ms": 1.0}
    assert (record["execution_node_id"], record["instance_id"]) == ("node_1", "ins_1")
    assert platform.calls[0].environment == {"X": "y"}
    assert platform.calls[0].deadline - time.time() <= 2
    assert (await http("POST", "/api/functions/invoke/echo", json=body)).json["result"] == {"a": 1}


@pytest.mark.parametrize(
    ("payload", "kind", "sent"),
    [("[1]", "json", b"[1]"), ("[1", "text", b"[1"), (None, "json", b"null"), (5, "json", b"5"), ("", "text", b"")],
)
async def test_a_text_payload_is_parsed_where_it_is_json(
    http: Http, platform: FakePlatform, payload: Any, kind: str, sent: bytes
) -> None:
    await http("POST", "/api/functions/fn_echo/invoke", json={"payload": payload})
    assert (platform.calls[0].kind, platform.calls[0].body) == (kind, sent)


async def test_invoke_answers_200_also_for_failures(http: Http, platform: FakePlatform) -> None:
    platform.add("f", fails("HANDLER_ERROR"))
    reply = await http("POST", "/api/functions/invoke/f")
    assert (reply.status, reply.json["status"], reply.json["error_code"]) == (200, "failed", "HANDLER_ERROR")
    assert reply.json["error"] == {"type": "ValueError", "message": "boom", "traceback": "Traceback …"}
    platform.add("f", answers(timed_out=True, failure=Failure("INVOCATION_TIMEOUT", "InvocationTimeout", "over")))
    assert (await http("POST", "/api/functions/invoke/f")).json["status"] == "timeout"
    platform.refuse_invoke = InvocationTimeout("no instance in time", details={"limit": "queue"})
    waited = await http("POST", "/api/functions/invoke/f")
    assert (waited.status, waited.json["status"], waited.json["error_code"]) == (200, "timeout", "INVOCATION_TIMEOUT")
    platform.refuse_invoke = QueueFull("full")
    assert (await http("POST", "/api/functions/invoke/f")).status == 429


async def test_invoke_gathers_a_stream_and_output(http: Http, platform: FakePlatform) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    platform.add("f", streaming(chunks, stdout=b"out\xff", stderr=b"err", truncated=True))
    record = (await http("POST", "/api/functions/invoke/f")).json
    assert (record["result"], record["stdout"], record["stderr"], record["truncated"]) == (
        "onetwo",
        "out�",
        "err",
        True,
    )


async def test_invoke_of_octets_and_of_what_only_python_calls_json(http: Http, platform: FakePlatform) -> None:
    platform.add("f", answers(kind="bytes", body=b"\xff"))
    assert (await http("POST", "/api/functions/invoke/f")).json["result"] == {"isBase64Encoded": True, "body": "/w=="}
    platform.add("f", answers(kind="json", body=b"NaN"))
    assert (await http("POST", "/api/functions/invoke/f")).json["result"] == "NaN"


async def test_invoke_of_nothing(http: Http) -> None:
    assert (await http("POST", "/api/functions/fn_none/invoke")).code == "FUNCTION_NOT_FOUND"
    assert (await http("POST", "/api/functions/invoke/theirs")).code == "FUNCTION_NOT_FOUND"
    wrong = await http("POST", "/api/functions/invoke/echo", json={"payloads": 1})
    assert (wrong.status, wrong.code) == (422, "INVALID_VALUE")
