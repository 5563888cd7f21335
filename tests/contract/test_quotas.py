"""The quotas of the settings hold on a platform, by each way over HTTP that makes or enlarges something.

Not here: how they are counted (tests/unit/test_quotas.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from pool.platform import Platform
from tests.contract.conftest import MakePlatform
from tests.fakes.calls import TENANT
from tests.fakes.runtime import FakeRuntime
from tests.fakes_gateway.http import Reply, serving

KEY = "quilt_sk_test"
BOX = {"name": "box", "memory_limit_mb": 100}


@asynccontextmanager
async def asking(platform: Platform) -> AsyncIterator[partial[Any]]:
    async with serving(platform) as http:
        yield partial(http, key=KEY, headers={"X-Tenant-Id": TENANT})


def refused(reply: Reply, quota: str, limit: int, used: int, asked: int) -> None:
    assert (reply.status, reply.code) == (429, "QUOTA_EXCEEDED"), reply.body
    assert reply.json["details"] == {"quota": quota, "limit": limit, "used": used, "asked": asked}


async def test_containers_are_counted_at_creates_and_in_batches(
    make_platform: MakePlatform, runtime: FakeRuntime
) -> None:
    async with asking(await make_platform(runtime, quota_containers=2)) as ask:
        made = await ask("POST", "/api/containers", json=BOX)
        begun = await ask("POST", "/api/containers/batch", json={"items": [{"name": "b1"}, {"name": "b2"}]})
        batch = (await ask("GET", f"{begun.json['status_url']}?wait_s=10")).json
        assert batch["result"] == {"created": 1, "failed": 1}
        assert [item.get("error_code") for item in batch["items"]] == [None, "QUOTA_EXCEEDED"]
        refused(await ask("POST", "/api/containers", json={"name": "more"}), "containers", 2, 2, 1)

        await ask("DELETE", f"/api/containers/{made.json['container_id']}")
        both = await asyncio.gather(*(ask("POST", "/api/containers", json={"name": name}) for name in ("c1", "c2")))
        assert sorted(each.status for each in both) == [201, 429]


async def test_memory_is_counted_at_creates_and_resizes(make_platform: MakePlatform, runtime: FakeRuntime) -> None:
    async with asking(await make_platform(runtime, quota_container_memory_mb=300)) as ask:
        made = await ask("POST", "/api/containers", json=BOX)
        refused(
            await ask("POST", "/api/containers", json=BOX | {"name": "more", "memory_limit_mb": 201}),
            "container_memory_mb", 300, 100, 201,
        )  # fmt: skip
        resize = f"/api/elasticity/containers/{made.json['container_id']}/resize"
        refused(await ask("POST", resize, json={"memory_limit_mb": 301}), "container_memory_mb", 300, 100, 201)
        assert (await ask("POST", resize, json={"memory_limit_mb": 300})).json["memory_limit_mb"] == 300
        refused(
            await ask("POST", "/api/containers", json={"name": "more", "memory_limit_mb": 16}),
            "container_memory_mb", 300, 300, 16,
        )  # fmt: skip


async def test_volumes_are_counted_and_their_sizes_added_up(make_platform: MakePlatform, runtime: FakeRuntime) -> None:
    async with asking(await make_platform(runtime, quota_volumes=2, quota_volume_mb=100)) as ask:
        assert (await ask("POST", "/api/volumes", json={"name": "v1", "size_limit_mb": 60})).status == 201
        refused(await ask("POST", "/api/volumes", json={"name": "v2", "size_limit_mb": 41}), "volume_mb", 100, 60, 41)
        assert (await ask("POST", "/api/volumes", json={"name": "v2", "size_limit_mb": 40})).status == 201
        refused(await ask("POST", "/api/volumes", json={"name": "v3", "size_limit_mb": 16}), "volumes", 2, 2, 1)
