"""Whether a Redis keeps what it was told: judged from its settings, asked over its own protocol."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pool.platform import Platform
from runtime.doctor.redis_durability import ask, judge
from tests.contract.conftest import RedisHandle


@pytest.mark.parametrize(
    ("config", "durable", "says"),
    [
        ({"appendonly": "yes", "appendfsync": "always"}, True, "fsync always"),
        ({"appendonly": "yes", "appendfsync": "everysec"}, False, "loses the last second"),
        ({"appendonly": "no", "appendfsync": "always"}, False, "no append-only file"),
        ({}, None, "unknown"),
        (None, None, "unknown"),
    ],
)
def test_what_settings_say(config: dict[str, str] | None, durable: bool | None, says: str) -> None:
    found, why = judge(config)
    assert found is durable and says in why


async def test_a_real_one_is_asked(redis: RedisHandle, tmp_path: Path) -> None:
    if redis.server is None:
        found, why = await asyncio.to_thread(ask, f"unix://{tmp_path}/nobody.sock")
        assert found is None and "does not answer" in why
        return
    assert await asyncio.to_thread(ask, redis.server.url) == (True, "append-only file, fsync always")
    client = redis.client()
    await client.config_set("appendfsync", "everysec")
    found, _ = await asyncio.to_thread(ask, redis.server.url)
    assert found is False
    await client.execute_command("ACL", "SETUSER", "default", "-config")
    found, why = await asyncio.to_thread(ask, redis.server.url)
    assert found is None and "refused" in why
    await client.aclose()


@pytest.mark.parametrize("url", ["http://x", "redis://127.0.0.1:1"])
def test_what_is_none_or_away_is_unknown(url: str) -> None:
    assert ask(url)[0] is None


async def test_the_platform_says_so(platform: Platform, redis: RedisHandle) -> None:
    said = (await platform.system())["redis"]
    assert said["available"] and said["durable"] is (True if redis.server else None), said
