"""`quilt cp` and `Client.volumes`, against the whole platform over a runtime in memory."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import fakeredis
import pytest

from pool.platform import Platform
from quilt_fn.cli.main import run
from quilt_fn.client import Client
from quilt_fn.errors import ContainerNotFound, FileNotThere, NameTaken, VolumeNotFound
from quilt_fn.settings import Settings
from tests.fakes.runtime import FakeRuntime
from tests.fakes_gateway.http import serving
from tests.fakes_gateway.platform import KEY


@dataclass(frozen=True, slots=True)
class Node:
    client: Client
    runtime: FakeRuntime
    capsys: pytest.CaptureFixture[str]

    async def cp(self, source: object, target: object) -> tuple[int, str]:
        """Exit code, and what it said on stderr."""
        code = await asyncio.to_thread(run, ("cp", str(source), str(target)))
        return code, self.capsys.readouterr().err

    def file(self, path: str) -> bytes:
        """A file of the only volume."""
        (files,) = self.runtime.volumes.volumes.values()
        return files[path]


@pytest.fixture
async def node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Node]:
    runtime = FakeRuntime()
    settings = Settings(state_dir=str(tmp_path), shutdown_seconds=0.2)
    platform = Platform(settings, "", runtime, "node_1", redis=fakeredis.FakeAsyncRedis(), bootstrap_key=KEY)
    await platform.start()
    try:
        async with serving(platform) as http:
            monkeypatch.setenv("QUILT_URL", http.url)
            monkeypatch.setenv("QUILT_API_KEY", KEY)
            client = Client(http.url, KEY)
            try:
                yield Node(client, runtime, capsys)
            finally:
                await client.close.aio()
    finally:
        await platform.close()


def tar_of(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def files_of(packed: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar if each.isreg()}  # type: ignore[union-attr]


async def test_volumes_of_the_client(node: Node) -> None:
    volumes = node.client.volumes
    data = await volumes.create.aio("data", labels={"team": "a"}, size_limit_mb=16)
    with pytest.raises(NameTaken):
        await volumes.create.aio("data")
    assert [each.name for each in (await volumes.list.aio(label="team=a")).items] == ["data"]
    assert await data.files.write.aio("a.txt", "hello") == 5
    assert await data.files.read.aio("a.txt") == b"hello"
    assert [each.name async for each in data.files.list.aio()] == ["a.txt"]
    assert (await data.inspect.aio()).size_bytes == 5
    await data.files.delete.aio("a.txt")
    with pytest.raises(FileNotThere):
        await data.files.read.aio("a.txt")
    other = await data.rename.aio("other")
    assert (await node.client.operations.wait.aio(await other.delete.aio())).status == "succeeded"
    with pytest.raises(VolumeNotFound):
        await volumes.get.aio("other")


async def test_a_file_to_a_volume_and_back(node: Node, tmp_path: Path) -> None:
    await node.client.volumes.create.aio("data")
    source = tmp_path / "a.bin"
    source.write_bytes(os.urandom(3000))
    assert await node.cp(source, "data:") == (0, "")
    assert await node.cp(source, "data:x/b.bin") == (0, "")
    assert node.file("a.bin") == node.file("x/b.bin") == source.read_bytes()
    assert await node.cp(source, "data:x") == (0, "")  # which is a folder by now
    assert node.file("x/a.bin") == source.read_bytes()
    assert await node.cp("data:x/b.bin", tmp_path) == (0, "")
    assert (tmp_path / "b.bin").read_bytes() == source.read_bytes()


async def test_files_and_folders_into_a_container(node: Node, tmp_path: Path) -> None:
    made = await node.client.containers.create.aio("box")
    folder = tmp_path / "site"
    (folder / "css").mkdir(parents=True)
    (folder / "index.html").write_text("<p>")
    (folder / "css" / "a.css").write_text("p{}")
    containers = node.runtime.containers
    assert await node.cp(folder, "box:/srv/site") == (0, "")
    assert files_of(containers.unpacked["srv/site"]) == {"index.html": b"<p>", "css/a.css": b"p{}"}
    assert await node.cp(folder / "index.html", f"{made.id}:/srv/") == (0, "")
    assert files_of(containers.unpacked["srv"]) == {"index.html": b"<p>"}
    assert await node.cp(folder / "index.html", "box:home.html") == (0, "")
    assert files_of(containers.unpacked["."]) == {"home.html": b"<p>"}
    containers.tars["etc"] = tar_of({})
    assert await node.cp(folder / "css" / "a.css", "box:/etc") == (0, "")
    assert files_of(containers.unpacked["etc"]) == {"a.css": b"p{}"}


async def test_files_and_folders_out_of_a_container(node: Node, tmp_path: Path) -> None:
    await node.client.containers.create.aio("box")
    tars = node.runtime.containers.tars
    large = os.urandom(700_000)
    tars["etc/hostname"] = tar_of({"hostname": large})
    tars["srv"] = tar_of({"a/b.txt": b"b", "c.txt": b"c"})
    assert await node.cp("box:/etc/hostname", tmp_path / "name") == (0, "")
    assert (tmp_path / "name").read_bytes() == large
    assert await node.cp("box:/etc/hostname", tmp_path) == (0, "")
    assert (tmp_path / "hostname").read_bytes() == large
    assert await node.cp("box:/srv", tmp_path / "srv") == (0, "")
    assert ((tmp_path / "srv/a/b.txt").read_bytes(), (tmp_path / "srv/c.txt").read_bytes()) == (b"b", b"c")


async def test_a_folder_with_one_file_of_its_own_name_is_a_folder(node: Node, tmp_path: Path) -> None:
    await node.client.containers.create.aio("box")
    tars = node.runtime.containers.tars
    tars["opt/app"] = tars["opt/app/app"] = tar_of({"app": b"1"})
    assert await node.cp("box:/opt/app", tmp_path / "got") == (0, "")
    assert (tmp_path / "got" / "app").read_bytes() == b"1"


async def test_what_a_hostile_container_sends_stays_in_the_folder(node: Node, tmp_path: Path) -> None:
    await node.client.containers.create.aio("box")
    node.runtime.containers.tars["srv"] = tar_of({"../out": b"1", "/abs": b"1", "in": b"2"})
    code, said = await node.cp("box:/srv", tmp_path / "got")
    assert code == 0 and "left out: ../out points outside" in said and "/abs" in said
    assert sorted(each.name for each in (tmp_path / "got").iterdir()) == ["in"]
    assert not (tmp_path / "out").exists()


async def test_wrong_words(node: Node, tmp_path: Path) -> None:
    await node.client.containers.create.aio("box")
    (tmp_path / "a").write_text("a")
    code, said = await node.cp("box:/none", tmp_path / "got")
    assert code and "none" in said and not (tmp_path / "got").is_file()
    code, said = await node.cp("nothing:/a", tmp_path)
    assert code and "no volume and no container is named 'nothing'" in said
    code, said = await node.cp(tmp_path / "none", "box:/a")
    assert code == 2 and "does not exist" in said
    code, said = await node.cp(tmp_path / "a", tmp_path / "b")
    assert code == 2 and "NAME:PATH" in said
    await node.client.volumes.create.aio("box")
    code, said = await node.cp(tmp_path / "a", "box:/a")
    assert code and "a volume and a container are named 'box'" in said and "ctr_" in said
    assert node.runtime.containers.unpacked == {}


async def test_archives_of_the_client(node: Node) -> None:
    box = await node.client.containers.create.aio("box")
    node.runtime.containers.tars["srv"] = packed = tar_of({"a": b"1"})
    assert b"".join([piece async for piece in box.files.pack.aio("/srv")]) == packed
    assert (await box.files.unpack.aio(packed, "/tmp/x"))["bytes"] == len(packed)
    assert node.runtime.containers.unpacked["tmp/x"] == packed
    with pytest.raises(FileNotThere):
        _ = [piece async for piece in box.files.pack.aio("/none")]
    await box.delete.aio()
    with pytest.raises(ContainerNotFound):
        await box.files.unpack.aio(packed, "/tmp")
