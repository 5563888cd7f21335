"""The gateway over the real pool, on Redis and a runtime in memory: the seams between the rooms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import fakeredis
import orjson
import pytest

from pool.functions import checked_spec
from pool.platform import Platform
from quilt_fn.errors import InvalidValue
from quilt_fn.model.function import FunctionSpec
from quilt_fn.settings import Settings
from tests.fakes import runtime as fakes
from tests.fakes.runtime import FakeRuntime
from tests.fakes_gateway.http import Http, serving
from tests.fakes_gateway.platform import KEY
from tests.slowness import patience

SPEC = {"name": "hello", "handler": "app:handler", "source": "def handler(event): return event"}


@dataclass(frozen=True, slots=True)
class Node:
    http: Http
    runtime: FakeRuntime
    platform: Platform


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    runtime = FakeRuntime()
    settings = Settings(state_dir=str(tmp_path), shutdown_seconds=0.2)
    platform = Platform(settings, "", runtime, "node_1", redis=fakeredis.FakeAsyncRedis(), bootstrap_key=KEY)
    await platform.start()
    try:
        async with serving(platform) as http:
            yield Node(http, runtime, platform)
    finally:
        await platform.close()


async def deployed(node: Node, **fields: object) -> str:
    made = await node.http("POST", "/api/functions", json=SPEC | fields)
    assert made.status == 201, made.body
    function_id = str(made.json["function_id"])
    reply = await node.http("POST", f"/api/functions/{function_id}/deploy")
    assert (reply.status, reply.json["state"]) == (200, "active"), reply.body
    return function_id


async def test_from_create_to_a_warm_answer_and_its_record(node: Node) -> None:
    function_id = await deployed(node)
    cold = await node.http("POST", "/fn/hello", json={"a": 1})
    warm = await node.http("POST", "/fn/hello", json={"a": 2})
    assert (cold.json, warm.json) == ({"a": 1}, {"a": 2})
    assert warm.headers["X-Quilt-Start"] == "warm"
    invocation_id = warm.headers["X-Quilt-Invocation-Id"]
    record = (await node.http("GET", f"/api/functions/{function_id}/invocations/{invocation_id}")).json
    assert (record["status"], record["start"], record["result"]) == ("success", "warm", {"a": 2})
    listed = (await node.http("GET", f"/api/functions/{function_id}/invocations?limit=1")).json
    assert [each["invocation_id"] for each in listed["invocations"]] == [invocation_id]
    assert listed["next_cursor"] is not None
    assert (await node.http("GET", f"/api/functions/{function_id}/pool")).json["ready_count"] == 1
    assert b"quilt_" in (await node.http("GET", "/metrics")).body


async def test_a_call_that_another_python_pickled_is_refused(node: Node) -> None:
    await deployed(node)
    headers = {"Content-Type": "application/vnd.quilt.call", "X-Quilt-Python": "3.99"}
    refused = await node.http("POST", "/fn/hello", data=b"p", headers=headers)
    assert (refused.code, refused.json["details"]) == ("PYTHON_MISMATCH", {"call": "3.99", "function": "3.11"})


async def test_the_record_that_invoke_answers_is_the_one_that_is_kept(node: Node) -> None:
    function_id = await deployed(node)
    answered = (await node.http("POST", "/api/functions/invoke/hello", json={"payload": [1]})).json
    kept = (await node.http("GET", f"/api/functions/{function_id}/invocations/{answered['invocation_id']}")).json
    same = answered.keys() & kept.keys() - {"started_at", "ended_at", "duration_ms", "timings"}
    assert {name: answered[name] for name in same} == {name: kept[name] for name in same}
    assert {"result", "status", "start", "execution_node_id", "instance_id", "version"} <= same


async def test_a_function_that_was_not_deployed_or_is_paused(node: Node) -> None:
    await node.http("POST", "/api/functions", json=SPEC | {"name": "new"})
    assert (await node.http("GET", "/fn/new")).code == "FUNCTION_NOT_DEPLOYED"
    function_id = await deployed(node)
    assert (await node.http("POST", f"/api/functions/{function_id}/pause")).json["state"] == "paused"
    assert (await node.http("GET", "/fn/hello")).code == "FUNCTION_PAUSED"
    assert (await node.http("POST", "/api/functions", json=SPEC)).code == "NAME_TAKEN"


async def test_failures_of_every_kind(node: Node) -> None:
    await deployed(node)
    node.runtime.handler = fakes.raises("boom")
    assert (await node.http("GET", "/fn/hello")).code == "HANDLER_ERROR"
    node.runtime.handler = fakes.dies
    assert (await node.http("GET", "/fn/hello")).code == "INSTANCE_DIED"
    node.runtime.handler = fakes.overtime
    assert (await node.http("GET", "/fn/hello")).code == "INVOCATION_TIMEOUT"
    node.runtime.handler = fakes.echo
    node.runtime.fail_all_starts("no memory")
    assert (await node.http("GET", "/fn/hello", headers={"X-Quilt-Timeout-S": "1"})).status in (503, 504)


async def test_a_full_queue_is_429(node: Node) -> None:
    gate = asyncio.Event()
    node.runtime.handler = fakes.held(gate)
    function_id = await deployed(node, max_instances=1, max_queue=1)
    waiting = []
    for counted in ("busy_count", "queued_count"):
        waiting.append(asyncio.create_task(node.http("GET", "/fn/hello")))
        async with asyncio.timeout(patience(5)):
            while not (await node.http("GET", f"/api/functions/{function_id}/pool")).json[counted]:
                pass
    full = await node.http("GET", "/fn/hello")
    assert (full.status, full.code) == (429, "QUEUE_FULL")
    assert int(full.headers["Retry-After"]) >= 1
    gate.set()
    assert [reply.status for reply in await asyncio.gather(*waiting)] == [200, 200]


async def test_a_client_that_leaves_its_stream_frees_the_instance(node: Node) -> None:
    function_id = await deployed(node, max_instances=1)
    node.runtime.handler = fakes.streams(*[b"x" * 65536] * 1000)
    async with aiohttp.ClientSession() as session:
        response = await session.get(node.http.url + "/fn/hello", headers={"X-Api-Key": KEY})
        await response.content.readany()
        response.close()
    node.runtime.handler = fakes.echo
    assert (await node.http("GET", "/fn/hello")).status == 200
    assert (await node.http("GET", f"/api/functions/{function_id}/pool")).json["busy_count"] == 0


async def test_a_watched_deploy_that_fails(node: Node) -> None:
    node.runtime.fail_builds("no module named x")
    made = await node.http("POST", "/api/functions", json=SPEC)
    path = f"/api/functions/{made.json['function_id']}/deploy"
    reply = await node.http("POST", path, headers={"Accept": "application/x-ndjson"})
    events = [orjson.loads(line) for line in reply.body.splitlines()]
    assert [event["event"] for event in events[-2:]] == ["progress", "error"]
    assert (events[-1]["error_code"], events[-1]["details"]["stage"]) == ("BUILD_FAILED", "import")
    assert (await node.http("GET", "/fn/hello")).code == "FUNCTION_BROKEN"


async def test_keys_come_and_go(node: Node) -> None:
    made = (await node.http("POST", "/api/keys", json={"name": "laptop"})).json
    assert (await node.http("GET", "/api/functions", key=made["key"])).status == 200
    assert (await node.http("DELETE", f"/api/keys/{made['key_id']}")).status == 204
    assert (await node.http("GET", "/api/functions", key=made["key"])).status == 403
    assert made["key"] not in str((await node.http("GET", "/api/keys")).json)


async def test_a_disk_without_room_takes_nothing_new_and_serves_what_is_there(node: Node) -> None:
    function_id = await deployed(node)
    node.platform.disk.reserve_bytes = 1 << 60
    for method, path, body in (
        ("POST", "/api/functions", SPEC | {"name": "other"}),
        ("PUT", f"/api/functions/{function_id}", {"timeout_seconds": 5}),
        ("POST", f"/api/functions/{function_id}/deploy", None),
        ("POST", "/api/bundles", None),
        ("POST", "/api/containers", {"name": "box"}),
        ("POST", "/api/containers/batch", {"items": [{"name": "box"}]}),
        ("POST", "/api/containers/ctr_1/archive", None),
        ("POST", "/api/images/debian/build", None),
        ("POST", "/api/volumes", {"name": "vol"}),
        ("PUT", "/api/volumes/vol/files/a", None),
        ("POST", "/api/volumes/vol/archive", None),
    ):
        reply = await node.http(method, path, json=body)
        assert (reply.status, reply.code) == (507, "DISK_FULL"), path
        assert reply.headers["Retry-After"] == "30" and "QUILT_DISK_RESERVE_MB" in str(reply.json["hint"])
    assert (await node.http("POST", "/fn/hello", json=1)).json == 1
    features = (await node.http("GET", "/api/system/info")).json["features"]
    assert features["disk"]["available"] is False and "must stay free" in features["disk"]["reason"]
    metrics = (await node.http("GET", "/metrics")).body.decode()
    assert f"quilt_disk_reserve_bytes {float(1 << 60)!r}" in metrics and "quilt_disk_free_bytes" in metrics
    node.platform.disk.reserve_bytes = 0
    assert (await node.http("DELETE", f"/api/functions/{function_id}")).status == 204
    assert (await node.http("POST", "/api/functions", json=SPEC | {"name": "other"})).status == 201


async def test_a_put_says_what_is_wrong_without_secrets_and_in_short(node: Node) -> None:
    function_id = await deployed(node)
    for fields in ({"secrets": {"TOKEN": "sup\0ersecret"}}, {"environment": {"A": "sup\0ersecret"}}):
        reply = await node.http("PUT", f"/api/functions/{function_id}", json=fields)
        assert (reply.status, reply.code) == (422, "INVALID_VALUE")
        assert b"ersecret" not in reply.body
        assert reply.json["error"] == f"{next(iter(fields))}: Value error, a value holds a NUL byte"
        assert reply.json["details"]["fields"][0]["got"] == "(dict, not shown)"
    long = await node.http("PUT", f"/api/functions/{function_id}", json={"description": "x" * 5000})
    assert (long.status, long.json["error"]) == (422, "description: String should have at most 1000 characters")
    assert len(long.body) < 1000
    with pytest.raises(InvalidValue) as wrong:  # also what only the pool finds
        checked_spec({"handler": "app:handler", "secrets": {"TOKEN": "sup\0ersecret"}})
    assert "ersecret" not in repr(wrong.value.details)


async def test_the_record_holds_what_was_asked_but_the_source_and_the_values_of_secrets(node: Node) -> None:
    asked = {
        "description": "d", "memory_limit_mb": 64, "environment": {"A": "1"}, "secrets": {"TOKEN": "hidden"},
        "recycle_after_invocations": 5, "recycle_after_seconds": 6.5, "recycle_memory_growth_mb": 7,
        "warmup_event": {"a": [1]}, "python": "3.11", "hooks": {"before_snapshot": ["app:warm"], "after_restore": []},
        "max_queue": 3, "idle_timeout_seconds": 9.0, "pids_limit": 33, "labels": {"team": "a"},
    }  # fmt: skip
    made = (await node.http("POST", "/api/functions", json=SPEC | asked)).json
    assert FunctionSpec.model_fields.keys() - made.keys() == {"source"}
    assert {name: made[name] for name in asked} == asked | {"secrets": ["TOKEN"]}
    put = {"recycle_after_invocations": 6, "warmup_event": "w", "python": "3.13"}
    changed = (await node.http("PUT", f"/api/functions/{made['id']}", json=put)).json
    assert {name: changed[name] for name in put} == put


async def test_a_requirement_that_no_build_would_take_is_refused_before_anything_is_made(node: Node) -> None:
    wrong = {"requirements": ["six", "git+https://x/y"]}
    made = await node.http("POST", "/api/functions", json=SPEC | wrong)
    assert (made.status, made.code) == (422, "INVALID_VALUE")
    (field,) = made.json["details"]["fields"]
    assert (field["field"], field["got"]) == ("requirements.1", "git+https://x/y")
    assert (await node.http("GET", "/api/functions")).json["functions"] == []
    function_id = await deployed(node)
    changed = await node.http("PUT", f"/api/functions/{function_id}", json=wrong)
    assert (changed.status, changed.json["details"]["fields"][0]["field"]) == (422, "requirements.1")
    assert (await node.http("GET", f"/api/functions/{function_id}")).json["version"] == 1
