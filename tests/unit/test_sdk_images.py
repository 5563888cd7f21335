"""`Client.images` and `quilt images` against a gateway over a platform in memory: list, build, wait, delete."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from quilt_fn.cli.main import run
from quilt_fn.client import Client
from quilt_fn.errors import Conflict, ImageNotFound, InvalidValue
from quilt_fn.states import OperationStatus
from tests.fakes.calls import until
from tests.fakes_gateway.http import serving
from tests.fakes_gateway.platform import KEY, FakePlatform
from tests.unit.test_images import Reported


@asynccontextmanager
async def connected(platform: FakePlatform) -> AsyncIterator[Client]:
    async with serving(platform) as http:
        client = Client(http.url, KEY)
        try:
            yield client
        finally:
            await client.close.aio()


async def carried_out(platform: FakePlatform, operation_id: str) -> None:
    """The work of an operation, which the fake leaves to the test, and its end."""
    await platform.operations.works[operation_id](Reported())
    platform.operations.end(operation_id, OperationStatus.SUCCEEDED)


async def test_list_build_and_delete() -> None:
    platform = FakePlatform()
    async with connected(platform) as client:
        images = client.images
        assert [(each.name, each.state) for each in await images.list.aio()] == [
            ("debian", "absent"),
            ("host", "ready"),
        ]
        operation_id = await images.build.aio("debian")
        assert (await images.list.aio(limit=1)).items[0].state == "building"
        with pytest.raises(Conflict, match="is being built already"):
            await images.build.aio("debian")
        await carried_out(platform, operation_id)
        assert (await client.operations.wait.aio(operation_id)).status is OperationStatus.SUCCEEDED
        first = await images.list.aio(limit=1)
        assert (first.items[0].state, first.items[0].size_bytes) == ("ready", 5_000_000)
        assert [each.name for each in await images.list.aio(cursor=first.next_cursor)] == ["host"]
        platform.node_images.users = 1
        with pytest.raises(Conflict, match="containers stand on"):
            await images.delete.aio("debian")
        platform.node_images.users = 0
        await images.delete.aio("debian")
        with pytest.raises(ImageNotFound):
            await images.delete.aio("debian")


async def test_what_is_no_image_is_refused() -> None:
    async with connected(FakePlatform()) as client:
        for name in ("host", "nix", "a/b", "ü"):
            with pytest.raises(ImageNotFound):
                await client.images.build.aio(name)
            with pytest.raises(ImageNotFound):
                await client.images.delete.aio(name)
        with pytest.raises(InvalidValue):
            await client.images.list.aio(cursor="../x")


Quilt = Callable[..., Awaitable[tuple[int, str, str]]]


@asynccontextmanager
async def commands(
    platform: FakePlatform, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Quilt]:
    async with serving(platform) as http:
        monkeypatch.setenv("QUILT_URL", http.url)
        monkeypatch.setenv("QUILT_API_KEY", KEY)

        async def quilt(*arguments: str) -> tuple[int, str, str]:
            code = await asyncio.to_thread(run, arguments)
            captured = capsys.readouterr()
            return code, captured.out, captured.err

        yield quilt


async def test_the_command_builds_waits_and_deletes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    platform = FakePlatform()
    async with commands(platform, monkeypatch, capsys) as quilt:
        code, out, _ = await quilt("images", "list", "--json")
        assert code == 0 and [each["state"] for each in json.loads(out)["images"]] == ["absent", "ready"]
        building = asyncio.create_task(quilt("images", "build", "debian"))
        await until(lambda: bool(platform.operations.works))
        await carried_out(platform, "op_1")
        code, out, err = await building
        assert (code, out) == (0, "") and "built debian" in err and "quilt operations get op_1" in err
        code, out, err = await quilt("images", "list", "--limit", "1")
        assert (
            code == 0 and out.splitlines()[2].split()[:3] == ["debian", "ready", "5.0"] and "--cursor 'debian'" in err
        )
        assert "host" in (await quilt("images", "list", "--cursor", "debian"))[1]
        code, out, err = await quilt("images", "delete", "debian")
        assert (code, out) == (2, "") and "--yes" in err, "nobody can be asked here"
        code, out, _ = await quilt("images", "delete", "debian", "--yes", "--json")
        assert code == 0 and json.loads(out) == {"deleted": ["debian"]}
        assert (await quilt("images", "delete", "debian", "--yes"))[0] == 3
        assert (await quilt("images", "build", "nix"))[0] == 3


async def test_a_build_that_fails_ends_the_command_with_5(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    platform = FakePlatform()
    async with commands(platform, monkeypatch, capsys) as quilt:
        code, out, _ = await quilt("images", "build", "debian", "--detach")
        assert (code, out) == (0, "op_1\n")
        assert (await quilt("images", "build", "debian"))[0] == 6, "one is under way"
        platform.operations.end("op_1", OperationStatus.FAILED)
        platform.images._building.clear()
        building = asyncio.create_task(quilt("images", "build", "debian", "--json"))
        await until(lambda: "op_2" in platform.operations.works)
        platform.operations.end("op_2", OperationStatus.FAILED)
        code, out, _ = await building
        assert code == 5 and json.loads(out)["status"] == "failed"
