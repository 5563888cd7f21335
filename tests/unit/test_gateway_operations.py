"""/api/operations over a fake platform: lists, long polls, cancels, and wrong input."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from gateway.operations import accepted
from pool.api import Report
from tests.fakes_gateway.http import serving
from tests.fakes_gateway.platform import OTHER_KEY, FakePlatform


async def nothing(_report: Report) -> None:
    return None


async def begun(platform: FakePlatform, tenant_id: str = "t1") -> str:
    record = await platform.operations.begin(tenant_id, "image.build", ("image", "debian"), nothing, timeout_s=1)
    return record.operation_id


async def test_a_202_names_the_receipt_which_only_its_tenant_sees() -> None:
    platform = FakePlatform()
    operation_id = await begun(platform)
    response = accepted(platform.operations.records["t1", operation_id])
    assert response.status == 202 and isinstance(response.body, bytes)
    body = orjson.loads(response.body)
    assert body == {"success": True, "operation_id": operation_id, "status_url": f"/api/operations/{operation_id}"}
    async with serving(platform) as http:
        found = await http("GET", body["status_url"])
        assert (found.status, found.json["status"], found.json["operation_type"]) == (200, "accepted", "image.build")
        assert (await http("GET", body["status_url"], key=OTHER_KEY)).code == "OPERATION_NOT_FOUND"
        assert (await http("DELETE", body["status_url"], key=OTHER_KEY)).code == "OPERATION_NOT_FOUND"
        assert (await http("GET", "/api/operations", key=OTHER_KEY)).json == {"operations": [], "next_cursor": None}


async def test_a_list_takes_a_status_and_a_limit() -> None:
    platform = FakePlatform()
    ids = [await begun(platform) for _ in range(3)]
    platform.operations.end(ids[0])
    async with serving(platform) as http:
        found = await http("GET", "/api/operations?limit=2")
        assert [each["operation_id"] for each in found.json["operations"]] == [ids[2], ids[1]]
        found = await http("GET", "/api/operations?status=succeeded")
        assert [each["operation_id"] for each in found.json["operations"]] == [ids[0]]


async def test_a_long_poll_answers_at_the_end() -> None:
    platform = FakePlatform()
    operation_id = await begun(platform)
    async with serving(platform) as http:
        asked = asyncio.create_task(http("GET", f"/api/operations/{operation_id}?wait_s=60"))
        platform.operations.end(operation_id)
        assert (await asked).json["status"] == "succeeded"
        missing = await http("GET", "/api/operations/op_nothing?wait_s=1")
        assert missing.code == "OPERATION_NOT_FOUND"


@pytest.mark.parametrize("wait_s", ["soon", "-1", "nan", "inf"])
async def test_a_wait_that_is_no_time_is_refused(wait_s: str) -> None:
    platform = FakePlatform()
    operation_id = await begun(platform)
    async with serving(platform) as http:
        reply = await http("GET", f"/api/operations/{operation_id}?wait_s={wait_s}")
        assert (reply.status, reply.code) == (422, "INVALID_VALUE")


async def test_a_cancel_answers_the_record_and_then_409() -> None:
    platform = FakePlatform()
    operation_id = await begun(platform)
    async with serving(platform) as http:
        assert (await http("DELETE", f"/api/operations/{operation_id}")).json["status"] == "cancelled"
        again = await http("DELETE", f"/api/operations/{operation_id}")
        assert (again.status, again.code, again.json["details"]) == (409, "OPERATION_ENDED", {"status": "cancelled"})
