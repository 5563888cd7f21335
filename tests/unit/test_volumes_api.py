"""Volumes without a disk: modes and ranges as they come in, targets, and the routes over a store in memory."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fakeredis
import pytest

from gateway.volumes import byte_range
from pool.events import Listener
from pool.operations import Operations
from pool.platform import Platform
from pool.volumes import targets
from pool.volumes.service import ARCHIVES_MAX
from quilt_fn.errors import InvalidValue, RangeNotSatisfiable, VolumeAttached, VolumeFull, VolumeNotFound
from quilt_fn.model.operation import OperationRecord
from quilt_fn.model.volume import VolumeCreate, mode_bits
from quilt_fn.settings import Settings
from runtime.spawner import volume_mounts
from runtime.spawner.protocol import Refused
from runtime.volumes.streams import closed
from tests.fakes.runtime import FakeRuntime
from tests.fakes_gateway.http import Http, serving
from tests.fakes_gateway.platform import KEY
from tests.slowness import patience


@pytest.mark.parametrize(("given", "bits"), [("644", 0o644), (644, 0o644), ("0", 0), ("0755", 0o755), (777, 0o777)])
def test_a_mode_is_octal_digits_also_as_a_number(given: object, bits: int) -> None:
    assert mode_bits(given) == bits


@pytest.mark.parametrize("given", ["888", "rw", "", "1777", -1, True, None, 6.4, "٣"])
def test_other_modes_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match="octal"):
        mode_bits(given)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, None), ("bytes=0-0", (0, 1)), ("bytes=5-", (5, 10)), ("bytes=-3", (7, 10)), ("bytes=-99", (0, 10)),
        ("bytes=2-99", (2, 10)), ("bytes=0-1,4-5", None), ("items=0-1", None), ("bytes=5-2", None), ("bytes=-", None),
        ("BYTES=0-0", (0, 1)), (f"bytes={'0' * 30}5-", (5, 10)), (f"bytes=5-{'9' * 30}", (5, 10)),
        (f"bytes=-{'9' * 5000}", (0, 10)), ("bytes=٣-", None),
    ],
)  # fmt: skip
def test_ranges(header: str | None, wanted: tuple[int, int] | None) -> None:
    assert byte_range(header, 10) == wanted


@pytest.mark.parametrize("first", ["10-", "-0", "99-100", "9" * 21 + "-", "9" * 5000 + "-"])
def test_ranges_beyond_the_file(first: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        byte_range(f"bytes={first}", 10)


def test_attachments_are_taken_apart() -> None:
    found = targets.parse(["data:/data", "models:/srv/models/:ro", "data:/again:rw"])
    assert found == (
        targets.Wanted("data", "/data", False), targets.Wanted("models", "/srv/models", True),
        targets.Wanted("data", "/again", False),
    )  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        ["data"], ["data:rel"], ["data:/a:rx"], ["Data:/a"], ["data:/"], ["data:/usr"], ["data:/usr/"], ["data:/etc"],
        ["data:/etc/ssl"], ["data:/proc/1"], ["data:/dev/x"], ["data:/sys"], ["data:/opt/quilt/layer"], ["data:/opt"],
        ["data:/a/../etc"], ["data://etc"], ["data:/a", "data:/a"], ["data:/a", "data:/a-b", "data:/a/c"],
    ],
)  # fmt: skip
def test_targets_that_are_refused(wrong: list[str]) -> None:
    with pytest.raises(InvalidValue):
        targets.parse(wrong)


@pytest.mark.parametrize(
    "target",
    ["//etc", "//proc", "//data", "/a//b", "/a/", "/a/../etc", "/./a", "/opt", "/opt/quilt/x", "a", "", "/a\0b"],
)
def test_the_spawner_checks_targets_by_itself(target: str) -> None:
    """It takes the plain form alone: a node that was taken over says what it likes."""
    with pytest.raises(Refused):
        volume_mounts.checked_list([["vol_" + "0" * 20, target, False]])


def test_targets_beside_the_platforms_own_are_free() -> None:
    assert [each.target for each in targets.parse(["a:/usr/local/x", "a:/opt/quiltwork", "a:/etcetera"])]


# --- over HTTP, on a store in memory ----------------------------------------------------------------------------------


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


async def create(node: Node, name: str, **more: Any) -> dict[str, Any]:
    made = await node.http("POST", "/api/volumes", json={"name": name, **more})
    assert made.status == 201, made.body
    return dict(made.json)


async def test_from_create_to_delete(node: Node) -> None:
    record = await create(node, "data", labels={"team": "a"}, size_limit_mb=16)
    assert (record["state"], record["size_limit_mb"], record["attached_to"]) == ("ready", 16, [])
    assert (await node.http("POST", "/api/volumes", json={"name": "data"})).json["error_code"] == "NAME_TAKEN"
    assert (await node.http("GET", "/api/volumes?label=team=a")).json["volumes"][0]["name"] == "data"
    assert (await node.http("GET", "/api/volumes?label=team=b")).json["volumes"] == []
    renamed = await node.http("POST", "/api/volumes/data/rename", json={"new_name": "other"})
    assert (renamed.json["name"], renamed.json["volume_id"]) == ("other", record["volume_id"])
    assert (await node.http("GET", "/api/volumes/data")).json["error_code"] == "VOLUME_NOT_FOUND"
    gone = await node.http("DELETE", "/api/volumes/other")
    assert gone.status == 202
    ended = await node.http("GET", gone.json["status_url"] + "?wait_s=5")
    assert (ended.json["status"], node.runtime.volumes.volumes) == ("succeeded", {})


async def heard(listener: Listener, kind: str, last: str) -> list[tuple[str, str]]:
    """Name and state of the events of that kind, up to the one with the state `last`."""
    found = []
    while not found or found[-1][1] != last:
        event = await listener.next(5.0)
        assert event is not None, f"no {kind} with {last} after {found}"
        if event.kind == kind:
            data = event.data
            found.append((data["name"], data["state"]))
    return found


async def test_events_tell_of_each_change_of_a_volume(node: Node) -> None:
    record = await create(node, "first")
    tenant_id = record["tenant_id"]
    listener = node.platform.events.listen(tenant_id, {})
    others = node.platform.events.listen("somebody-else", {})
    mine = await create(node, "data")
    only = node.platform.events.listen(tenant_id, {"volume_id": record["volume_id"]})
    await node.http("POST", "/api/volumes/data/rename", json={"new_name": "other"})
    await node.http("DELETE", "/api/volumes/other")
    assert mine["volume_id"] != record["volume_id"]
    assert await heard(listener, "volume_update", "deleted") == [
        ("data", "creating"), ("data", "ready"), ("other", "ready"), ("other", "deleting"), ("other", "deleted"),
    ]  # fmt: skip
    assert await others.next(0.0) is None and await only.next(0.0) is None


async def test_events_tell_of_each_change_of_a_container(node: Node) -> None:
    tenant_id = (await create(node, "data"))["tenant_id"]
    listener = node.platform.events.listen(tenant_id, {})
    made = await node.http("POST", "/api/containers", json={"name": "box"})
    assert made.status == 201, made.body
    states = [state for _, state in await heard(listener, "container_update", "running")]
    assert states[0] == "created" and states[-1] == "running"


async def test_a_name_is_free_while_its_files_are_removed(node: Node) -> None:
    node.runtime.volumes.hold_drop = asyncio.Event()
    first = await create(node, "data")
    assert (await node.http("DELETE", "/api/volumes/data")).status == 202
    assert (await node.http("DELETE", "/api/volumes/data")).status == 404
    assert (await create(node, "data"))["volume_id"] != first["volume_id"]
    node.runtime.volumes.hold_drop.set()


async def test_files_up_down_and_in_part(node: Node) -> None:
    await create(node, "data")
    body = {"path": "a.txt", "content": "aGVsbG8=", "mode": 600}
    assert (await node.http("POST", "/api/volumes/data/files", json=body)).json == {"path": "a.txt", "size": 5}
    whole = await node.http("GET", "/api/volumes/data/files/a.txt")
    assert (whole.status, whole.body) == (200, b"hello")
    part = await node.http("GET", "/api/volumes/data/files/a.txt", headers={"Range": "bytes=1-3"})
    assert (part.status, part.body, part.headers["Content-Range"]) == (206, b"ell", "bytes 1-3/5")
    beyond = await node.http("GET", "/api/volumes/data/files/a.txt", headers={"Range": "bytes=9-"})
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, "bytes */5")
    first = await node.http("HEAD", "/api/volumes/data/files/a.txt", headers={"Range": "bytes=1-3"})
    assert (first.status, first.body, first.headers["Content-Length"]) == (200, b"", "5")
    for header in ("Accept-Ranges", "Last-Modified", "Content-Type", "X-Quilt-File-Mode"):
        assert first.headers[header] == whole.headers[header]
    absent = await node.http("HEAD", "/api/volumes/data/files/none")
    assert (absent.status, absent.body) == (404, b"")
    assert all(file.closed for file in node.runtime.volumes.opened)
    wrong = await node.http("POST", "/api/volumes/data/files", json={"path": "a", "content": "?"})
    assert wrong.status == 422
    assert (await node.http("PUT", "/api/volumes/data/files/b?mode=999", data=b"1")).status == 422


async def test_raw_bodies_may_be_larger_than_other_bodies(node: Node) -> None:
    await create(node, "data")
    large = 33 << 20
    assert (await node.http("PUT", "/api/volumes/data/files/b", data=io.BytesIO(bytes(large)))).json["size"] == large
    await create(node, "small", size_limit_mb=16)
    full = await node.http("PUT", "/api/volumes/small/files/b", data=io.BytesIO(bytes(large)))
    assert (full.status, full.json["error_code"]) == (413, "VOLUME_FULL")


async def test_archives_of_a_tenant_are_bounded_and_leave_room_for_others(node: Node) -> None:
    tenant_id, volumes = (await create(node, "data"))["tenant_id"], node.platform.volumes
    await volumes.create("t_other", VolumeCreate(name="data"))
    assert (await node.http("PUT", "/api/volumes/data/files/a", data=b"1")).status == 201
    over = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"1"
        await over.wait()

    going_in = [asyncio.create_task(volumes.unpack(tenant_id, "data", ".", 0, slow())) for _ in range(ARCHIVES_MAX - 1)]
    coming_out = await volumes.pack(tenant_id, "data", ".", zipped=False)
    for method in ("GET", "POST"):
        refused = await node.http(method, "/api/volumes/data/archive", data=b"1" if method == "POST" else None)
        assert (refused.status, refused.json["error_code"]) == (429, "QUOTA_EXCEEDED")
        assert refused.json["details"] == {"quota": "archives", "limit": 6, "used": 6, "asked": 1}
        assert int(refused.headers["Retry-After"]) >= 1
    made = (await node.http("POST", "/api/containers", json={"name": "box"})).json["container_id"]
    assert (await node.http("POST", f"/api/containers/{made}/archive?path=/srv", data=b"1")).status == 429

    async def quick() -> AsyncIterator[bytes]:
        yield b"1"

    assert (await volumes.unpack("t_other", "data", ".", 0, quick())).entries == 1
    assert not any(task.done() for task in going_in)
    over.set()
    await asyncio.gather(*going_in)
    await closed(coming_out)
    assert (await node.http("POST", "/api/volumes/data/archive", data=b"1")).status == 200


async def test_an_archive_is_answered_whose_operation_was_cancelled_before_it_began(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = (await node.http("POST", "/api/containers", json={"name": "box"})).json["container_id"]
    begin = Operations.begin

    async def begun_and_cancelled(self: Operations, *given: Any, **how: Any) -> OperationRecord:
        record = await begin(self, *given, **how)
        self._stop(self._live[record.operation_id], "CANCELLED")
        return record

    monkeypatch.setattr(Operations, "begin", begun_and_cancelled)
    async with asyncio.timeout(patience(10)):
        taken = await node.http("POST", f"/api/containers/{made}/archive?path=/srv", data=b"1")
    assert taken.status == 202
    ended = await node.http("GET", taken.json["status_url"] + "?wait_s=5")
    assert ended.json["status"] == "cancelled"


async def test_a_create_that_fails_leaves_nothing(node: Node) -> None:
    node.runtime.volumes.fail_make = VolumeFull("no room")
    assert (await node.http("POST", "/api/volumes", json={"name": "data"})).status == 413
    node.runtime.volumes.fail_make = None
    await create(node, "data")


async def test_what_is_just_being_attached_is_not_deleted(node: Node) -> None:
    await create(node, "data")
    volumes = node.platform.volumes
    with volumes.attaching("default", ["data:/data"]) as attached:
        assert [each.target for each in attached] == ["/data"]
        with pytest.raises(VolumeAttached):
            await volumes.delete("default", "data")
    await volumes.delete("default", "data")
    with pytest.raises(VolumeNotFound), volumes.attaching("default", ["data:/data"]):
        raise AssertionError("not reached")


async def test_a_tenant_sees_its_own(node: Node) -> None:
    await create(node, "data")
    other = node.platform.volumes
    assert (await other.list("other", 10, None))[0] == []
    with pytest.raises(VolumeNotFound):
        await other.get("other", "data")
    assert (await other.create("other", VolumeCreate(name="data"))).tenant_id == "other"


async def test_a_function_holds_its_volumes(node: Node) -> None:
    await create(node, "data")
    spec = {"name": "f", "handler": "app:handler", "source": "x = 1", "volumes": ["data:/data:ro"]}
    made = await node.http("POST", "/api/functions", json=spec)
    assert made.status == 201
    assert (await node.http("GET", "/api/volumes/data")).json["attached_to"] == ["function:f"]
    refused = await node.http("DELETE", "/api/volumes/data")
    assert (refused.status, refused.json["error_code"]) == (409, "VOLUME_ATTACHED")
    unknown = await node.http("POST", "/api/functions", json=spec | {"name": "g", "volumes": ["nix:/data"]})
    assert unknown.json["error_code"] == "VOLUME_NOT_FOUND"


async def test_a_name_may_have_newlines_in_it(node: Node) -> None:
    await create(node, "files")  # which is also what the path has before the file's
    for path in ("n%0Al", "files/a%0A%0Ab"):
        assert (await node.http("PUT", f"/api/volumes/files/files/{path}", data=b"x")).status == 201
        assert (await node.http("GET", f"/api/volumes/files/files/{path}")).body == b"x"
    (files,) = node.runtime.volumes.volumes.values()
    assert sorted(files) == ["files/a\n\nb", "n\nl"]
    assert (await node.http("DELETE", "/api/volumes/files/files/n%0Al")).status == 204


async def test_names_that_are_no_text_are_read_and_removed_but_not_made(node: Node) -> None:
    await create(node, "data")
    (files,) = node.runtime.volumes.volumes.values()
    files["\udcff/\udce4"] = b"latin"
    assert (await node.http("GET", "/api/volumes/data/files/%FF/%E4")).body == b"latin"
    assert (await node.http("GET", "/api/volumes/data/files/%25FF/%25E4")).code == "FILE_NOT_FOUND"
    assert (await node.http("GET", "/api/volumes/data/ls?path=%FF")).json["path"] == "\\xff"
    assert (await node.http("DELETE", "/api/volumes/data/files/%FF/%E4")).status == 204
    for method, path in (("PUT", "files/%FF"), ("POST", "archive?path=%FF")):
        refused = await node.http(method, f"/api/volumes/data/{path}", data=b"x")
        assert refused.code == "INVALID_VALUE" and "UTF-8" in refused.json["error"]
        assert refused.json["details"]["fields"][0]["got"] == "\\xff"
    assert files == {}


async def test_a_path_with_a_slash_at_its_end_makes_no_file(node: Node) -> None:
    await create(node, "data")
    for path in ("dir/", "dir/.", "a//"):
        assert (await node.http("PUT", f"/api/volumes/data/files/{quote(path)}", data=b"x")).code == "INVALID_VALUE"
        body = {"path": path, "content": ""}
        assert (await node.http("POST", "/api/volumes/data/files", json=body)).code == "INVALID_VALUE"
    (files,) = node.runtime.volumes.volumes.values()
    assert files == {}
