"""The API's routes over a Platform in memory: shapes, statuses, errors, idempotency, streams of lines."""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
from collections.abc import AsyncIterator

import aiohttp
import orjson
import pytest

from gateway.logs import JsonLines, mask
from gateway.server import bind
from quilt_fn.errors import BuildFailed, Conflict, InvalidValue, QueueFull, QuotaExceeded, RegistryUnavailable
from quilt_fn.settings import Settings
from tests.fakes_gateway.http import Http, serving
from tests.fakes_gateway.platform import KEY, OTHER_KEY, FakePlatform
from tests.slowness import patience

SPEC = {"name": "hello", "handler": "app:handler"}


@pytest.fixture
def platform() -> FakePlatform:
    return FakePlatform()


@pytest.fixture
async def http(platform: FakePlatform) -> AsyncIterator[Http]:
    async with serving(platform, max_body_mb=1) as client:
        yield client


async def test_health_needs_no_key_and_says_ok(http: Http) -> None:
    reply = await http("GET", "/health", key=None)
    assert (reply.status, reply.json) == (200, {"status": "ok"})
    assert reply.headers["X-Request-Id"].startswith("req_")


async def test_no_key_is_401_and_a_wrong_one_403(http: Http) -> None:
    assert (await http("GET", "/api/functions", key=None)).status == 401
    wrong = await http("GET", "/api/functions", key="quilt_sk_wrong")
    assert wrong.status == 403 and "QUILT_API_KEY" in wrong.json["hint"] and "credentials.json" in wrong.json["hint"]
    bearer = await http("GET", "/api/functions", key=None, headers={"Authorization": f"Bearer {KEY}"})
    assert bearer.status == 200


async def test_a_token_in_the_query_is_for_streams_only(http: Http) -> None:
    await http("POST", "/api/functions", json=SPEC)
    assert (await http("GET", f"/api/functions?token={KEY}", key=None)).status == 401
    assert (await http("GET", f"/api/functions/fn_hello/logs?token={KEY}", key=None)).status == 200


async def test_a_function_goes_through_its_routes(http: Http) -> None:
    made = await http("POST", "/api/functions", json={**SPEC, "secrets": {"TOKEN": "hidden"}})
    assert made.status == 201
    assert made.json["function_id"] == "fn_hello"
    assert made.json["secrets"] == ["TOKEN"]
    assert b"hidden" not in made.body
    assert (await http("GET", "/api/functions/fn_hello")).json["name"] == "hello"
    assert (await http("GET", "/api/functions/by-name/hello")).json["id"] == "fn_hello"
    assert (await http("PUT", "/api/functions/fn_hello", json={"memory_limit_mb": 64})).json["version"] == 2
    assert (await http("POST", "/api/functions/fn_hello/deploy")).json["state"] == "active"
    assert (await http("POST", "/api/functions/fn_hello/pause")).json["state"] == "paused"
    assert (await http("POST", "/api/functions/fn_hello/resume")).json["state"] == "active"
    assert (await http("GET", "/api/functions/fn_hello/pool")).json["ready_count"] == 1
    assert len((await http("GET", "/api/functions/pool/stats")).json["pools"]) == 1
    assert (await http("POST", "/api/functions/fn_hello/template/drop")).json == {"dropped": True}
    assert (await http("GET", "/api/functions/fn_hello/invocations")).json == {"invocations": [], "next_cursor": None}
    assert (await http("GET", "/api/functions/fn_hello/invocations/inv_x")).code == "INVOCATION_NOT_FOUND"
    gone = await http("DELETE", "/api/functions/fn_hello")
    assert (gone.status, gone.body) == (204, b"")
    assert (await http("GET", "/api/functions/fn_hello")).code == "FUNCTION_NOT_FOUND"


async def test_another_tenants_function_is_not_found(http: Http) -> None:
    await http("POST", "/api/functions", json=SPEC)
    assert (await http("GET", "/api/functions/fn_hello", key=OTHER_KEY)).status == 404


async def test_lists_go_on_at_their_cursor(http: Http) -> None:
    for name in ("a", "b", "c"):
        await http("POST", "/api/functions", json={**SPEC, "name": name})
    first = (await http("GET", "/api/functions?limit=2")).json
    rest = (await http("GET", f"/api/functions?limit=2&cursor={first['next_cursor']}")).json
    assert [f["name"] for f in first["functions"] + rest["functions"]] == ["a", "b", "c"]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=-1", "limit=1e9", "limit=99999999999"])
async def test_a_limit_that_is_none_is_422(http: Http, query: str) -> None:
    reply = await http("GET", f"/api/functions?{query}")
    assert (reply.status, reply.code) == (422, "INVALID_VALUE")
    assert reply.json["details"]["fields"][0]["field"] == "limit"


async def test_unknown_routes_and_methods_have_the_one_error_body(http: Http) -> None:
    nowhere = await http("GET", "/api/nothing")
    assert (nowhere.status, nowhere.code) == (404, "ROUTE_NOT_FOUND")
    wrong = await http("PATCH", "/api/functions")
    assert (wrong.status, wrong.code) == (405, "METHOD_NOT_ALLOWED")
    assert wrong.json["details"]["allowed"] == ["GET", "POST"]
    assert wrong.headers["Allow"] == "GET, POST"


@pytest.mark.parametrize("body", [b"{", b"[1,", b"\xff\xfe", b"{'a': 1}"])
async def test_bad_json_is_400(http: Http, body: bytes) -> None:
    reply = await http("POST", "/api/functions", data=body)
    assert (reply.status, reply.code) == (400, "INVALID_REQUEST")


async def test_wrong_fields_are_all_named_and_secrets_never_shown(http: Http) -> None:
    body = {"name": "No!", "handler": "x", "memory_limit_mb": "much", "colour": 1, "secrets": {"1 bad": "s3cret"}}
    reply = await http("POST", "/api/functions", json=body)
    assert (reply.status, reply.code) == (422, "INVALID_VALUE")
    fields = {item["field"].split(".")[0] for item in reply.json["details"]["fields"]}
    assert fields == {"name", "handler", "memory_limit_mb", "colour", "secrets"}
    assert all(set(item) == {"field", "expected", "got"} for item in reply.json["details"]["fields"])
    assert b"s3cret" not in reply.body


async def test_a_body_that_is_no_object_is_422(http: Http) -> None:
    assert (await http("POST", "/api/functions", data=b"[]")).code == "INVALID_VALUE"


async def test_too_large_a_body_is_413(http: Http) -> None:
    reply = await http("POST", "/api/functions", data=io.BytesIO(b"x" * (1024 * 1024 + 1)))
    assert (reply.status, reply.code) == (413, "PAYLOAD_TOO_LARGE")
    assert reply.json["details"] == {"limit_bytes": 1 << 20}

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 65536

    chunked = await http("POST", "/api/bundles", data=pieces())
    assert (chunked.status, chunked.code) == (413, "PAYLOAD_TOO_LARGE")


async def test_503_says_when_to_come_back(http: Http, platform: FakePlatform) -> None:
    platform.fail_with = RegistryUnavailable("Redis is away", retry_after=2.5)
    reply = await http("POST", "/api/functions", json=SPEC)
    assert (reply.status, reply.code) == (503, "REGISTRY_UNAVAILABLE")
    assert reply.headers["Retry-After"] == "3"
    assert reply.json["retry_after"] == 2.5


async def test_the_unexpected_is_500_and_logged_with_the_request(
    http: Http, platform: FakePlatform, caplog: pytest.LogCaptureFixture
) -> None:
    platform.fail_with = ZeroDivisionError("a detail of ours")
    reply = await http("POST", "/api/functions?token=abc", json=SPEC, headers={"X-Request-Id": "mine-1"})
    assert (reply.status, reply.code) == (500, "INTERNAL_ERROR")
    assert b"a detail of ours" not in reply.body
    (record,) = [r for r in caplog.records if r.name == "gateway"]
    assert record.__dict__["request_id"] == "mine-1"
    assert "abc" not in JsonLines().format(record)


async def test_only_sane_request_ids_are_repeated(http: Http) -> None:
    assert (await http("GET", "/health", headers={"X-Request-Id": "a-b.c/1"})).headers["X-Request-Id"] == "a-b.c/1"
    for bad in ("x y", "x" * 129, '"<script>"'):
        assert (await http("GET", "/health", headers={"X-Request-Id": bad})).headers["X-Request-Id"] != bad


async def test_bundles_are_201_then_200(http: Http) -> None:
    first = await http("POST", "/api/bundles", data=b"content")
    assert (first.status, first.json["size_bytes"]) == (201, 7)
    assert first.json["bundle_id"] == hashlib.sha256(b"content").hexdigest()
    assert (await http("POST", "/api/bundles", data=b"content")).status == 200


async def test_an_idempotency_key_creates_once(http: Http, platform: FakePlatform) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = await http("POST", "/api/functions", json=SPEC, headers=key)
    again = await http("POST", "/api/functions", json=SPEC, headers=key)
    assert (again.status, again.body) == (201, first.body)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert platform.creates == 1
    other = await http("POST", "/api/functions", json={**SPEC, "name": "other"}, headers=key)
    assert (other.status, other.code) == (422, "INVALID_VALUE")
    theirs = await http("POST", "/api/functions", json=SPEC, headers=key, key=OTHER_KEY)
    assert "Idempotency-Replayed" not in theirs.headers


async def test_a_failure_is_not_replayed(http: Http, platform: FakePlatform) -> None:
    key = {"Idempotency-Key": "k-1"}
    platform.fail_with = RegistryUnavailable("away")
    assert (await http("POST", "/api/functions", json=SPEC, headers=key)).status == 503
    platform.fail_with = None
    assert (await http("POST", "/api/functions", json=SPEC, headers=key)).status == 201


async def test_a_bundles_replay_has_the_first_status_and_another_body_is_422(http: Http) -> None:
    key = {"Idempotency-Key": "b-1"}
    assert (await http("POST", "/api/bundles", data=b"one", headers=key)).status == 201
    assert (await http("POST", "/api/bundles", data=b"one", headers=key)).status == 201
    assert (await http("POST", "/api/bundles", data=b"two", headers=key)).code == "INVALID_VALUE"


async def test_keys(http: Http) -> None:
    made = await http("POST", "/api/keys", json={"name": "laptop"})
    assert (made.status, made.json["name"]) == (201, "laptop")
    assert (await http("GET", "/api/keys")).json["keys"][0]["key_id"] == "k1"
    assert (await http("DELETE", "/api/keys/k1")).status == 204


async def test_a_pool_target_needs_the_tenant_named(http: Http) -> None:
    await http("POST", "/api/functions", json=SPEC)
    path, body = "/api/elasticity/functions/fn_hello/pool-target", {"min_instances": 1, "max_instances": 2}
    assert (await http("POST", path, json=body)).status == 400
    assert (await http("POST", path, json=body, headers={"X-Tenant-Id": "t2"})).status == 403
    assert (await http("POST", path, json=body, headers={"X-Tenant-Id": "t1"})).json["function_id"] == "fn_hello"
    wrong = {"min_instances": 3, "max_instances": 2}
    assert (await http("POST", path, json=wrong, headers={"X-Tenant-Id": "t1"})).status == 422


async def test_metrics_need_a_key_unless_opened_to_loopback(http: Http, platform: FakePlatform) -> None:
    assert (await http("GET", "/metrics", key=None)).status == 401
    assert (await http("GET", "/metrics")).body == b"quilt_up 1\n"
    async with serving(platform, public_metrics=True) as opened:
        assert (await opened("GET", "/metrics", key=None)).status == 200


async def test_system_info(http: Http) -> None:
    assert (await http("GET", "/api/system/info")).json["node_id"] == "node_1"


def lines(body: bytes) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in body.splitlines()]


async def test_a_deploy_can_be_watched(http: Http) -> None:
    await http("POST", "/api/functions", json=SPEC)
    reply = await http("POST", "/api/functions/fn_hello/deploy", headers={"Accept": "application/x-ndjson"})
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/x-ndjson")
    first, second, last = lines(reply.body)
    assert first == {"event": "progress", "stage": "boot", "text": "booting", "done": False, "ms": None}
    assert (second["done"], second["ms"]) == (True, 12.5)
    assert (last["event"], last["function"]["state"]) == ("done", "active")  # type: ignore[index]


async def test_a_failing_deploy_ends_its_lines_with_the_error_body(http: Http, platform: FakePlatform) -> None:
    await http("POST", "/api/functions", json=SPEC)
    platform.fail_with = BuildFailed("no such module", details={"stage": "import", "traceback": "Traceback"})
    plain = await http("POST", "/api/functions/fn_hello/deploy")
    assert (plain.status, plain.code) == (422, "BUILD_FAILED")
    watched = await http("POST", "/api/functions/fn_hello/deploy", headers={"Accept": "application/x-ndjson"})
    last = lines(watched.body)[-1]
    assert (last["event"], last["error_code"]) == ("error", "BUILD_FAILED")
    assert last["details"] == {"stage": "import", "traceback": "Traceback"}


async def test_watching_the_deploy_of_nothing_is_404(http: Http) -> None:
    reply = await http("POST", "/api/functions/fn_none/deploy", headers={"Accept": "application/x-ndjson"})
    assert (reply.status, reply.code) == (404, "FUNCTION_NOT_FOUND")


async def test_a_client_that_leaves_does_not_stop_a_deploy(http: Http, platform: FakePlatform) -> None:
    await http("POST", "/api/functions", json=SPEC)
    platform.hold = asyncio.Event()
    headers = {"X-Api-Key": KEY, "Accept": "application/x-ndjson"}
    async with aiohttp.ClientSession() as session:
        response = await session.post(http.url + "/api/functions/fn_hello/deploy", headers=headers)
        await response.content.readline()
        response.close()
    platform.hold.set()
    async with asyncio.timeout(patience(5)):
        await platform.deployed.wait()


async def test_logs_are_lines_and_follow_goes_on_until_the_client_leaves(http: Http, platform: FakePlatform) -> None:
    await http("POST", "/api/functions", json=SPEC)
    once = await http("GET", "/api/functions/fn_hello/logs")
    assert [line["text"] for line in lines(once.body)] == ["hello"]
    assert (await http("GET", "/api/functions/fn_none/logs")).status == 404
    assert (await http("GET", "/api/functions/fn_none/logs?follow=true")).status == 404
    platform.logs_closed.clear()
    async with aiohttp.ClientSession() as session:
        response = await session.get(http.url + "/api/functions/fn_hello/logs?follow=true", headers={"X-Api-Key": KEY})
        assert orjson.loads(await response.content.readline())["text"] == "hello"
        platform.line_gate.set()
        assert orjson.loads(await response.content.readline())["text"] == "later"
        assert not platform.logs_closed.is_set()
        response.close()
    async with asyncio.timeout(patience(5)):
        await platform.logs_closed.wait()


async def test_following_ends_when_the_node_goes(platform: FakePlatform) -> None:
    async with serving(platform) as http:
        await http("POST", "/api/functions", json=SPEC)
        session = aiohttp.ClientSession()
        response = await session.get(http.url + "/api/functions/fn_hello/logs?follow=true", headers={"X-Api-Key": KEY})
        await response.content.readline()
    async with asyncio.timeout(patience(5)):
        await platform.logs_closed.wait()
    response.close()
    await session.close()


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("GET /x?token=abc&y=1", "GET /x?token=***&y=1"),
        ("GET /x?y=1&TOKEN=a%20b HTTP", "GET /x?y=1&TOKEN=*** HTTP"),
        ("key quilt_sk_0123abc was", "key quilt_sk_*** was"),
        ("nothing here", "nothing here"),
    ],
)
def test_credentials_are_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


def test_log_lines_are_json_with_credentials_masked_in_every_part() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonLines())
    logger = logging.Logger("any.library")
    logger.addHandler(handler)
    try:
        raise ValueError("GET /?token=abc")
    except ValueError:
        logger.exception("for %s", "/x?token=abc", extra={"path": "/x?token=abc", "request_id": "r"})
    line = orjson.loads(out.getvalue())
    assert line["request_id"] == "r"
    assert "abc" not in out.getvalue()


async def test_a_port_in_use_is_one_clear_error(http: Http) -> None:
    port = int(http.url.rpartition(":")[2])
    with pytest.raises(Conflict, match=f"127.0.0.1:{port} is in use"):
        bind(Settings(port=port))


def test_an_address_that_is_not_ours_is_one_clear_error() -> None:
    with pytest.raises(InvalidValue, match=r"cannot listen on 192\.0\.2\.1:1"):
        bind(Settings(host="192.0.2.1", port=1))


async def test_content_that_is_no_base64_is_a_422(http: Http) -> None:
    await http("POST", "/api/volumes", json={"name": "data"})
    for content in ("%", "\u00ff"):
        found = await http("POST", "/api/volumes/data/files", json={"path": "note", "content": content})
        assert found.json["details"]["fields"][0]["field"] == "content", found.json
        assert found.status == 422


async def test_retry_after_is_said_where_waiting_helps() -> None:
    platform = FakePlatform()
    async with serving(platform) as http:
        for error, header, value in (
            (QuotaExceeded("delete some"), None, None), (QuotaExceeded("too many at once", retry_after=1.0), "1", 1.0),
            (QueueFull("full"), "1", 1.0),
        ):  # fmt: skip
            platform.fail_with = error
            reply = await http("POST", "/api/functions", json=SPEC)
            assert reply.status == 429
            assert (reply.headers.get("Retry-After"), reply.json["retry_after"]) == (header, value), error
