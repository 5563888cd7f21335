"""Whether a Redis keeps what it was told: judged from its settings, asked over its own protocol."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pool.platform import Platform
from pool.redis_link import RedisLink, connect
from quilt_fn.errors import RegistryUnavailable
from runtime.doctor.redis_durability import Asked, ask, judge
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
        asked = await asyncio.to_thread(ask, f"unix://{tmp_path}/nobody.sock")
        assert not asked.answers and asked.durable is None and "does not answer" in asked.why
        return
    assert await asyncio.to_thread(ask, redis.server.url) == Asked(True, True, "append-only file, fsync always")
    client = redis.client()
    await client.config_set("appendfsync", "everysec")
    assert (await asyncio.to_thread(ask, redis.server.url)).durable is False
    await client.execute_command("ACL", "SETUSER", "default", "-config")
    asked = await asyncio.to_thread(ask, redis.server.url)
    assert asked.answers and asked.durable is None and "refused" in asked.why
    await client.aclose()


@pytest.mark.parametrize("url", ["http://x", "redis://127.0.0.1:1"])
def test_what_is_none_or_away_is_unknown(url: str) -> None:
    assert (ask(url).answers, ask(url).durable) == (False, None)


async def test_a_start_without_redis_says_what_a_start_needs() -> None:
    link = RedisLink(connect("redis://127.0.0.1:1"))
    with pytest.raises(RegistryUnavailable) as away:
        await link.wait(0.1)
    assert "to start" in str(away.value.hint) and "QUILT_REDIS_URL" in str(away.value.hint)
    await link.close()


async def test_the_platform_says_so(platform: Platform, redis: RedisHandle) -> None:
    said = (await platform.system())["redis"]
    assert said["available"] and said["durable"] is (True if redis.server else None), said
