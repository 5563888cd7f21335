"""The link under many commands at once, and without its Redis, on a redis-server of its own."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pool.redis_link import CONNECTIONS, RedisLink, connect
from quilt_fn.errors import RegistryUnavailable
from tests.contract.conftest import RedisServer

COMMANDS = 500


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="q-") as folder:  # a unix socket's path must stay short
        server = RedisServer(Path(folder))
        await server.start()
        yield server
        await server.stop()


async def test_hundreds_of_commands_at_once_share_a_bounded_number_of_connections(server: RedisServer) -> None:
    link = RedisLink(connect(server.url))
    answers = await asyncio.gather(*(link.run(link.client.incr("n")) for _ in range(COMMANDS)))
    assert sorted(answers) == list(range(1, COMMANDS + 1))
    clients = await link.run(link.client.client_list())
    assert 1 < len(clients) <= CONNECTIONS
    await link.close()


async def test_all_who_wait_are_told_that_redis_is_away_and_served_when_it_is_back(server: RedisServer) -> None:
    link = RedisLink(connect(server.url))
    seen: list[bool] = []
    link.on_change.append(seen.append)
    await link.run(link.client.set("kept", "1"))
    await server.stop()
    told = await asyncio.gather(*(link.run(link.client.get("kept")) for _ in range(COMMANDS)), return_exceptions=True)
    assert {type(each) for each in told} == {RegistryUnavailable}
    await server.start()
    again = await asyncio.gather(*(link.run(link.client.get("kept")) for _ in range(COMMANDS)))
    assert set(again) == {b"1"}
    assert seen == [True, False, True]
    await link.close()


async def test_who_gives_up_waiting_takes_no_connection_with_it(server: RedisServer) -> None:
    link = RedisLink(connect(server.url))
    tasks = [asyncio.ensure_future(link.run(link.client.incr("n"))) for _ in range(COMMANDS)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    answers = await asyncio.gather(*(link.run(link.client.ping()) for _ in range(COMMANDS)))
    assert all(answers)
    await link.close()


async def test_what_can_not_be_undone_holds_up_nothing(server: RedisServer) -> None:
    link = RedisLink(connect(server.url))
    undone: list[str] = []

    async def refused() -> None:
        undone.append("refused")
        await link.run(link.client.execute_command("NONSENSE"))

    async def fine() -> None:
        undone.append("fine")

    for undo in (refused, fine):
        with pytest.raises(RegistryUnavailable):
            async with link.undone_by(undo):
                raise RegistryUnavailable("the answer was lost")
    await link.tidy()
    await link.tidy()
    assert undone == ["refused", "fine"]
    await link.close()


async def test_an_undo_waits_until_redis_is_back(server: RedisServer) -> None:
    link = RedisLink(connect(server.url))

    async def undo() -> None:
        await link.run(link.client.delete("made"))

    with pytest.raises(RegistryUnavailable):
        async with link.undone_by(undo):
            await link.run(link.client.set("made", "1"))
            raise RegistryUnavailable("the answer was lost")
    await server.stop()
    with pytest.raises(RegistryUnavailable):
        await link.tidy()
    await server.start()
    assert await link.run(link.client.exists("made")) == 1
    async with link.undone_by(undo):  # the next write of this kind comes after it
        assert await link.run(link.client.exists("made")) == 0
    await link.close()
