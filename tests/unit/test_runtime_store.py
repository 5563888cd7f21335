"""What the runtime takes from outside: frames, output, archives, ids, messages, snapshots. In memory or tmp_path."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import io
import json
import os
import socket
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from quilt_fn.errors import BundleInvalid, BundleNotFound, PayloadTooLarge
from quilt_fn.model import function as model
from quilt_fn.model.function import FunctionUpdate
from runtime import bundle_store, output
from runtime.api import VersionSpec
from runtime.bundle_store import BundleStore
from runtime.contents import layer_id, snapshot_id
from runtime.frames import FrameProtocol
from runtime.guest import wire
from runtime.output import Pipe
from runtime.spawner import bundles, checkpoint, names, protocol, snapshots, store_operations
from runtime.spawner.store_operations import _is_requirement

# --- frames ---------------------------------------------------------------------------------------------------------


def collector() -> tuple[FrameProtocol, list[Any], list[int]]:
    got: list[Any] = []
    lost: list[int] = []
    return FrameProtocol(lambda *frame: got.append(frame), lambda: lost.append(1)), got, lost


def frame(kind: int, meta: bytes, body: bytes) -> bytes:
    return wire.HEADER.pack(kind, len(meta), len(body)) + meta + body


@given(
    st.lists(st.tuples(st.integers(0, 255), st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=3),
                       st.binary(max_size=40)), max_size=6),
    st.lists(st.integers(1, 30), min_size=1),
)  # fmt: skip
def test_frames_come_whole_however_they_are_cut(sent: list[Any], cuts: list[int]) -> None:
    reader, got, lost = collector()
    data = b"".join(frame(kind, orjson.dumps(meta), body) for kind, meta, body in sent)
    at = step = 0
    while at < len(data):
        size = cuts[step % len(cuts)]
        reader.data_received(data[at : at + size])
        at, step = at + size, step + 1
    assert got == sent and not lost


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    reader, _, lost = collector()
    reader.data_received(data)
    reader.connection_lost(None)
    assert lost == [1]


@pytest.mark.parametrize(
    "data",
    [
        wire.HEADER.pack(1, wire.META_LIMIT + 1, 0),
        wire.HEADER.pack(1, 0, 101),
        frame(1, b"[1]", b""),
        frame(1, b"{", b""),
        frame(1, b"\xff", b""),
        frame(1, b"[" * 9000, b""),
    ],
)
def test_a_bad_frame_is_the_end_and_nothing_after_it_counts(data: bytes) -> None:
    reader, got, lost = collector()
    reader.body_limit = 100
    reader.data_received(data + frame(1, b"", b"x"))
    reader.connection_lost(None)
    assert got == [] and lost == [1]


# --- output ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def pipe() -> AsyncIterator[tuple[Pipe, int]]:
    read, write = os.pipe()
    found = Pipe(asyncio.get_running_loop(), read)
    yield found, write
    found.close()
    found.close()
    with pytest.raises(OSError):
        os.fstat(read)
    os.close(write)


async def test_what_was_written_is_there_at_once_and_once(pipe: tuple[Pipe, int]) -> None:
    os.write(pipe[1], b"one")
    assert pipe[0].take() == (b"one", False)
    assert pipe[0].take() == (b"", False)


async def test_what_is_over_the_limit_is_thrown_away_and_said(
    pipe: tuple[Pipe, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "LIMIT_BYTES", 10)
    os.write(pipe[1], b"x" * 50)
    assert pipe[0].take() == (b"x" * 10, True)
    os.write(pipe[1], b"next")
    assert pipe[0].take() == (b"next", False)


async def test_a_flood_is_read_by_the_loop_and_never_blocks_the_writer(pipe: tuple[Pipe, int]) -> None:
    await asyncio.to_thread(lambda: [os.write(pipe[1], bytes(65536)) for _ in range(40)])
    taken, truncated = pipe[0].take()
    assert len(taken) == output.LIMIT_BYTES and truncated


# --- bundles --------------------------------------------------------------------------------------------------------


def archive(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for info, body in entries:
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return out.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, body: bytes = b"", link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, body


def bomb(kind: bytes) -> bytes:
    """A header that says it goes on for 64 MB."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 64 << 20
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(64 << 20), 1)


GOOD = archive(entry("app.py", body=os.urandom(3000)), entry("d", tarfile.DIRTYPE), entry("d/" + "n" * 150, body=b"y"))
HOSTILE: dict[str, Callable[[], bytes]] = {
    "above": lambda: archive(entry("../x")),
    "above, inside": lambda: archive(entry("a/../../x")),
    "absolute": lambda: archive(entry("/etc/x")),
    "symlink": lambda: archive(entry("x", tarfile.SYMTYPE, link="/etc")),
    "hard link": lambda: archive(entry("x", tarfile.LNKTYPE, link="y")),
    "device": lambda: archive(entry("x", tarfile.CHRTYPE)),
    "fifo": lambda: archive(entry("x", tarfile.FIFOTYPE)),
    "text": lambda: b"print(1)",
    "nothing": lambda: b"",
    "gzip of text": lambda: gzip.compress(b"print(1)" * 200),
    "plain tar": lambda: gzip.decompress(GOOD),
    "truncated": lambda: GOOD[: len(GOOD) // 2],
    "damaged": lambda: GOOD[:200] + bytes(200) + GOOD[400:],
    "long name": lambda: bomb(tarfile.GNUTYPE_LONGNAME),
    "pax header": lambda: bomb(tarfile.XHDTYPE),
}


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 1000):
        yield data[at : at + 1000]


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_archive_is_refused_and_nothing_is_kept(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleInvalid):
        await BundleStore(tmp_path).put("t", pieces(HOSTILE[name]()))
    assert list((tmp_path / "t").iterdir()) == []


async def test_limits_of_size_and_of_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_store, "UPLOAD_LIMIT", len(GOOD) - 1)
    with pytest.raises(PayloadTooLarge):
        await BundleStore(tmp_path).put("t", pieces(GOOD))
    monkeypatch.setattr(bundle_store, "UPLOAD_LIMIT", 1 << 20)
    for name, limit in (("FILES_LIMIT", 2), ("UNPACKED_LIMIT", 2999)):
        with monkeypatch.context() as patch:
            patch.setattr(bundle_store, name, limit)
            with pytest.raises(BundleInvalid):
                await BundleStore(tmp_path).put("t", pieces(GOOD))
    assert list((tmp_path / "t").iterdir()) == []


async def test_a_good_one_is_kept_once_and_is_its_tenants_alone(tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    sha, size, new = await store.put("t", pieces(GOOD))
    assert (size, new) == (len(GOOD), True) and (await store.put("t", pieces(GOOD)))[2] is False
    os.close(store.open("t", sha))
    assert store.has("t", sha) and not store.has("u", sha)
    for tenant, bundle in (("u", sha), ("../t", sha), ("t", "../" + sha), ("t", sha + "\n"), ("", sha)):
        with pytest.raises(BundleNotFound):
            store.open(tenant, bundle)


async def test_the_same_source_is_the_same_bundle(tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    assert await store.put_source("t", "app.py", "x = 1\n") == await store.put_source("t", "app.py", "x = 1\n")


def test_many_folders_and_large_files_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(
        archive(*(entry(f"d{n}", tarfile.DIRTYPE) for n in range(2500)), entry("big", body=bytes(3 << 20)))
    )
    bundle_store.check(path)
    made: list[str] = []
    monkeypatch.setattr(bundles, "Path", lambda _: tmp_path / "out")  # where the jail's root would be
    with path.open("rb") as file:
        bundles._extract(file.fileno())
    made = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert len(made) == 2501 and (tmp_path / "out" / "big").stat().st_size == 3 << 20


# --- ids and messages -----------------------------------------------------------------------------------------------

SPEC = VersionSpec("t", "fn_1", "hello", 1, "0" * 64, "app:handler")
FACTS = {"python": "3.11", "kernel": "6"}
CHANGES: dict[str, Any] = {
    "tenant_id": "u", "function_id": "fn_2", "version": 2, "bundle_id": "1" * 64, "handler": "app:other",
    "image": "other", "environment": {"A": "1"}, "before_snapshot": ("app:x",), "after_restore": ("app:x",),
    "warmup_event": {"a": 1}, "memory_limit_mb": 512, "cpu_limit_percent": 50, "pids_limit": 99, "network": "none",
}  # fmt: skip


def test_each_thing_that_a_snapshot_depends_on_changes_its_id_and_secrets_do_not() -> None:
    found = {snapshot_id(SPEC, None, FACTS), snapshot_id(SPEC, "lyr_1", FACTS),
             snapshot_id(SPEC, None, {**FACTS, "kernel": "7"})}  # fmt: skip
    for name, value in CHANGES.items():
        found.add(snapshot_id(dataclasses.replace(SPEC, **{name: value}), None, FACTS))
    assert len(found) == 3 + len(CHANGES)
    assert snapshot_id(dataclasses.replace(SPEC, secrets={"K": "v"}), None, FACTS) in found
    names.checked("snapshot", found.pop())


def test_a_layer_is_its_lines_and_its_python() -> None:
    assert layer_id((), FACTS) is None
    one = layer_id(("a>=1", "b"), FACTS)
    assert one == layer_id(("b", "a>=1 "), FACTS) and names.checked("layer", one)
    assert len({one, layer_id(("a>=1",), FACTS), layer_id(("a>=1", "b"), {**FACTS, "python": "3.12"})}) == 3


@pytest.mark.parametrize(
    ("kind", "value"),
    [("container", "ctr_" + "0" * 19), ("container", "ctr_" + "0" * 20 + "\n"), ("kit", "ctr_" + "0" * 20),
     ("snapshot", "../" + "0" * 33), ("tenant", ""), ("tenant", ".."), ("tenant", "A"), ("tenant", "a/b"),
     ("tenant", "a" * 64), ("bundle", None), ("bundle", ["0" * 64]), ("layer", "lyr_" + "G" * 32)],
)  # fmt: skip
def test_what_is_not_an_id_is_refused(kind: str, value: object) -> None:
    with pytest.raises(protocol.Refused):
        names.checked(kind, value)


@pytest.mark.parametrize("value", [None, True, 1.0, "4", 0, 11, float("nan")])
def test_what_is_not_a_number_in_its_range_is_refused(value: object) -> None:
    with pytest.raises(protocol.Refused):
        names.integer({"n": value}, "n", 1, 10)
    assert names.integer({"n": 10}, "n", 1, 10) == 10


@pytest.mark.parametrize(
    "line", ["requests", "pillow>=11", "a[b, c]>=1,<2 ; python_version < '3.12'", "a==1.* # why",
             "a==1 --hash=sha256:0a1b"],
)  # fmt: skip
def test_requirements_name_packages_of_the_index(line: str) -> None:
    assert _is_requirement(line)
    assert FunctionUpdate(requirements=[line]).requirements == [line]


@pytest.mark.parametrize(
    "line", ["a @ file:///etc/passwd", "-r x", "--index-url=x", "a\n-r x", "a \n--find-links .", "a[b\n]", "a\x0c-r x",
             "a>=1\u2028-r x", "http:169.254.169.254", "file:etc", "a @ http:h", "./a", "a\\b", "a>=${SECRET}", "", 7,
             None, "a" * 257],
)  # fmt: skip
def test_requirements_hold_no_options_paths_or_urls(line: object) -> None:
    assert not _is_requirement(line)
    with pytest.raises(ValidationError, match=r"requirements\.1"):
        FunctionUpdate.model_validate({"requirements": ["six", line]})


def test_the_spawner_and_the_api_have_one_notion_of_a_requirement() -> None:
    assert model._OF_THE_INDEX.pattern == store_operations._REQUIREMENT.pattern


def test_the_spawner_names_the_requirement_that_it_refuses() -> None:
    with pytest.raises(protocol.Refused, match=r"the requirement 'git\+https://x/y' must name a package"):
        store_operations.layer(None, {"requirements": ["six", "git+https://x/y"]}, [])  # type: ignore[arg-type]


@pytest.fixture
def pair() -> Any:
    before = {entry.name for entry in Path("/proc/self/fd").iterdir()}
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield one, other
    one.close()
    other.close()
    assert {entry.name for entry in Path("/proc/self/fd").iterdir()} == before


@pytest.mark.parametrize("data", [b"{", b"[]", b"7", b"\xff", b"[" * 60_000, b"1" * 6000, b" " * (64 * 1024 + 1)])
def test_what_is_not_a_message_is_refused_and_its_descriptors_closed(pair: Any, data: bytes) -> None:
    one, other = pair
    socket.send_fds(one, [data], [one.fileno()] * 3)
    with pytest.raises(protocol.Refused):
        protocol.receive(other)


def test_messages_carry_descriptors_to_the_limit_and_end(pair: Any) -> None:
    one, other = pair
    protocol.send(one, {"id": 1}, [one.fileno()] * 2)
    message, fds = protocol.receive(other)
    assert message == {"id": 1} and len(fds) == 2
    protocol.close(fds)
    with pytest.raises(protocol.Refused):
        protocol.send(one, {"x": "y" * protocol.MESSAGE_LIMIT})
    socket.send_fds(one, [b"{}"], [one.fileno()] * (protocol.DESCRIPTOR_LIMIT + 3))
    with pytest.raises(protocol.Refused):
        protocol.receive(other)
    one.shutdown(socket.SHUT_WR)
    assert protocol.receive(other) == (None, [])


def test_the_reason_of_criu_is_its_first_error() -> None:
    log = "info\nError (criu/x.c:1): Unable to set RLIMIT_NOFILE for self\nError (criu/y.c:2): no way\nError (z): after"
    assert checkpoint.reason(log) == "no way"
    assert checkpoint.reason("just words") == "just words" and checkpoint.reason("") == "it said nothing"


# --- snapshots ------------------------------------------------------------------------------------------------------

SNP = "snp_" + "a" * 32


@pytest.fixture
def config(tmp_path: Path) -> names.Config:
    state, run = tmp_path / "state", tmp_path / "run"
    state.mkdir()
    (run / "mnt").mkdir(parents=True)
    nothing = tmp_path / "nothing"
    return names.Config(state, run, run / "s", "p", 1, 1, (), nothing, nothing, nothing, "python3", "uv", nothing, 0, 0)


def make(config: names.Config, content: bytes = b"pages") -> int:
    folder = config.state / "made"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "pages.img").write_bytes(content)
    (folder / "images" / "core.img").write_bytes(b"core")
    return snapshots.finish(config, SNP, folder, {"dump": True, "lowers": {}})


def test_what_was_signed_is_taken_again_and_replaced_whole(config: names.Config) -> None:
    assert make(config) == 9
    about = snapshots.manifest(config, SNP)
    snapshots.verify(config, SNP, about["files"])
    snapshots.verify(config, SNP, about["files"])
    assert make(config, b"other") == 9
    snapshots.verify(config, SNP, snapshots.manifest(config, SNP)["files"])
    assert (config.state / "sign.key").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in config.state.iterdir() if "key" in p.name] == ["sign.key"]
    snapshots.delete(config, SNP)
    snapshots.delete(config, SNP)
    with pytest.raises(protocol.Refused) as caught:
        snapshots.manifest(config, SNP)
    assert caught.value.kind == "absent"


@pytest.mark.parametrize("verified", [False, True])
@pytest.mark.parametrize("how", ["change", "add", "remove"])
def test_images_that_were_touched_are_not_restored(config: names.Config, how: str, verified: bool) -> None:
    make(config)
    files = snapshots.manifest(config, SNP)["files"]
    if verified:
        snapshots.verify(config, SNP, files)
    images = config.snapshot(SNP) / "images"
    if how == "change":
        (images / "pages.img").write_bytes(b"PAGES")
    elif how == "add":
        (images / "more.img").write_bytes(b"")
    else:
        (images / "core.img").unlink()
    with pytest.raises(protocol.Refused, match="not what was signed"):
        snapshots.verify(config, SNP, files)


def test_a_manifest_that_was_touched_or_signed_elsewhere_is_refused(config: names.Config) -> None:
    make(config)
    path = config.snapshot(SNP) / "manifest.json"
    raw = json.loads(path.read_text())
    raw["manifest"]["lowers"] = {"tenant": "other"}
    path.write_text(json.dumps(raw))
    with pytest.raises(protocol.Refused, match="signed"):
        snapshots.manifest(config, SNP)
    make(config)
    (config.state / "sign.key").write_bytes(bytes(32))
    with pytest.raises(protocol.Refused, match="signed"):
        snapshots.manifest(config, SNP)
