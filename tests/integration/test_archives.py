"""Archives into volumes and containers on a real platform: all of one, or nothing of it.

What is hostile in an archive and must stay inside is in test_volumes; a kill in the middle in tests/chaos.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.live import Live, wait_for
from tests.integration.volume_tools import MIB, disk, half_archive, names, put, read, tar, volume

__all__ = ["volume"]

FILE = tarfile.REGTYPE
GOOD = (("kept", FILE, b"new"), ("sub/new", FILE, b"new"))
PLAIN = tar(*GOOD, mode="w")
"""Uncompressed: entries of 1024 bytes each, then the end."""
BAD = {
    "an entry that leads out": tar(*GOOD, ("../x", FILE, b"")),
    "a device": tar(*GOOD, ("dev", tarfile.CHRTYPE, "")),
    "a hard link to nothing": tar(*GOOD, ("hard", tarfile.LNKTYPE, "nix")),
    "a cut header": PLAIN[: 2 * 1024 + 100],
    "a cut file": tar(*GOOD, ("big", FILE, bytes(5000)), mode="w")[: 3 * 1024],
    "a broken header": PLAIN[: 2 * 1024] + b"x" * 512 + bytes(1024),
    "a wrong checksum": tar(*GOOD)[:-8] + bytes(8),
    "a folder where a file is": tar(*GOOD, ("file/x", FILE, b"")),
    "a file where a folder is": tar(*GOOD, ("folder", FILE, b"")),
    "a link where a folder is": tar(*GOOD, ("folder", tarfile.SYMTYPE, "kept")),
    "a folder where a link leads nowhere": tar(*GOOD, ("dangling/x", FILE, b"")),
}


@pytest.fixture
def furnished(live: Live, volume: Callable[..., str]) -> Callable[..., str]:
    def make(**more: Any) -> str:
        name = volume(**more)
        before = tar(("kept", FILE, b"old"), ("file", FILE, b""), ("folder/x", FILE, b""),
                     ("dangling", tarfile.SYMTYPE, "nix"))  # fmt: skip
        live.ok("POST", f"/api/volumes/{name}/archive", before)
        return name

    return make


@pytest.fixture
def container(live: Live) -> Iterator[Callable[..., str]]:
    """`container(volumes=…)` makes one and gives its address."""
    made: list[str] = []

    def make(**more: Any) -> str:
        found = live.ok("POST", "/api/containers", {"name": f"a-{os.urandom(5).hex()}", **more})
        made.append(f"/api/containers/{found['container_id']}")
        return made[-1]

    yield make
    for address in made:
        live.ok("DELETE", address)


def sh(live: Live, address: str, script: str) -> str:
    done = live.ok("POST", f"{address}/exec", {"command": ["sh", "-c", script]})
    assert done["exit_code"] == 0, done
    return str(done["stdout"])


def unpacked(live: Live, address: str, path: str, archive: bytes) -> dict[str, Any]:
    begun = live.ok("POST", f"{address}/archive?path={path}", archive)
    return dict(live.ok("GET", f"{begun['status_url']}?wait_s=20"))


def unchanged(live: Live, name: str) -> bool:
    root = disk(live, name)
    nothing_waits = not list((root / "incoming").iterdir()) and not list((root / "data").glob(".quilt-*"))
    return (
        nothing_waits
        and names(live, name) == ["dangling", "file", "folder", "kept"]
        and read(live, name, "kept").body == b"old"
    )


@pytest.mark.parametrize("what", BAD)
def test_of_a_bad_archive_nothing_is_unpacked(live: Live, furnished: Callable[..., str], what: str) -> None:
    name = furnished()
    got = live.ask("POST", f"/api/volumes/{name}/archive", BAD[what])
    assert got.status in (404, 422), got.body
    assert unchanged(live, name), names(live, name)


def test_in_a_container_neither(live: Live, furnished: Callable[..., str], container: Callable[..., str]) -> None:
    name = furnished()
    address = container(volumes=[f"{name}:/data"])
    sh(live, address, "mkdir /srv/t && cd /srv/t && mkdir folder && echo -n old >kept && touch file")
    for what in BAD:
        for path in ("/data", "/srv/t"):
            ended = unpacked(live, address, path, BAD[what])
            if (what, path) != ("a folder where a link leads nowhere", "/srv/t"):  # there is no such link there
                assert ended["status"] == "failed", (what, ended)
                assert sh(live, address, f"cd {path} && cat kept && ls -A | grep -v dangling") == (
                    "oldfile\nfolder\nkept\n"
                ), what
    assert unchanged(live, name)
    assert sh(live, address, "ls -A / | grep -c quilt- || true") == "0\n"


def test_where_there_is_no_room_neither(live: Live, furnished: Callable[..., str]) -> None:
    name = furnished(size_limit_mb=16)
    got = live.ask("POST", f"/api/volumes/{name}/archive", tar(*GOOD, ("zeros", FILE, bytes(40 * MIB))))
    assert (got.status, got.code) == (413, "VOLUME_FULL")
    assert names(live, name) == ["dangling", "file", "folder", "kept"]
    assert read(live, name, "kept").body == b"old"
    assert put(live, name, "after", bytes(8 * MIB)).status == 201  # what had been staged is free again


@pytest.mark.parametrize("at", ["an entry's end", "the middle of a file"])
def test_of_a_client_that_leaves_neither(live: Live, furnished: Callable[..., str], at: str) -> None:
    name = furnished()
    archive = PLAIN[: 2 * 1024] if at == "an entry's end" else tar(*GOOD, ("b", FILE, bytes(9000)), mode="w")[:9000]
    sock = half_archive(live, f"/api/volumes/{name}/archive", archive)
    wait_for(lambda: any((disk(live, name) / "incoming").glob(".quilt-*/tree/kept")), "the entries to be staged")
    assert names(live, name) == ["dangling", "file", "folder", "kept"]
    sock.close()
    wait_for(lambda: unchanged(live, name), "the stage to go")


def test_what_waits_is_not_shown(live: Live, furnished: Callable[..., str], container: Callable[..., str]) -> None:
    name = furnished()
    address = container(volumes=[f"{name}:/data"])
    sock = half_archive(live, f"{address}/archive?path=/data", PLAIN[:2048])
    data = disk(live, name) / "data"
    wait_for(lambda: any(data.glob(".quilt-*/tree/kept")), "the entries to be staged at the mount's top")
    assert names(live, name) == ["dangling", "file", "folder", "kept"]
    with tarfile.open(fileobj=io.BytesIO(live.ask("GET", f"/api/volumes/{name}/archive").body)) as packed:
        assert packed.getnames() == ["dangling", "file", "folder", "folder/x", "kept"]
    sock.close()
    wait_for(lambda: unchanged(live, name), "the stage to go")


def test_an_archive_is_merged_with_what_is_there(
    live: Live, volume: Callable[..., str], container: Callable[..., str]
) -> None:
    address = container(volumes=[f"{volume()}:/data"])
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as out:
        for path, kind, mode in (("named", tarfile.DIRTYPE, 0o700), ("named/f", FILE, 0o600), ("way/f", FILE, 0o4755),
                                 ("way/new/g", FILE, 0o644), ("link/f", FILE, 0o644)):  # fmt: skip
            info = tarfile.TarInfo(path)
            info.type, info.mode = kind, mode
            out.addfile(info)
    for path in ("/data/t", "/srv/t"):
        sh(live, address, f"mkdir -p {path} && cd {path} && mkdir -m 750 named way real && ln -s real link && touch"
                          " named/old way/f && chown 7:8 way/f")  # fmt: skip
        assert unpacked(live, address, path, archive.getvalue())["status"] == "succeeded"
        shown = sh(live, address, f"cd {path} && find . -not -name . | sort | xargs stat -c '%n %a %u:%g'")
        assert shown.splitlines() == [
            "./link 777 0:0", "./named 700 0:0", "./named/f 600 0:0", "./named/old 644 0:0", "./real 750 0:0",
            "./real/f 644 0:0", "./way 750 0:0", "./way/f 755 7:8", "./way/new 755 0:0", "./way/new/g 644 0:0",
        ]  # fmt: skip


def test_an_archive_that_reaches_into_a_volume_goes_in_whole_or_not(
    live: Live, volume: Callable[..., str], container: Callable[..., str]
) -> None:
    small = volume(size_limit_mb=16)
    address = container(volumes=[f"{small}:/data"])
    fits, does_not = (
        tar(("srv/a", FILE, b"1"), ("data/deep/b", FILE, bytes(size)), ("data/l", tarfile.SYMTYPE, "deep/b"))
        for size in (1000, 40 * MIB)
    )
    ended = unpacked(live, address, "/", does_not)
    assert (ended["status"], ended["reason_code"]) == ("failed", "VOLUME_FULL"), ended
    assert sh(live, address, "ls -A /srv /data | grep -v lost+found") == "/data:\n\n/srv:\n"
    assert unpacked(live, address, "/", fits)["status"] == "succeeded"
    assert sh(live, address, "stat -c '%n %s' /srv/a /data/deep/b && readlink /data/l") == (
        "/srv/a 1\n/data/deep/b 1000\ndeep/b\n"
    )
    assert names(live, small) == ["deep", "l"]


def test_a_stage_that_a_power_cut_left_is_swept(
    live: Live, volume: Callable[..., str], container: Callable[..., str]
) -> None:
    name = volume()
    address = container(volumes=[f"{name}:/data"])
    left = ".quilt-" + "0" * 20
    sh(live, address, f"mkdir -p /{left}/tree /data/{left}/tree")
    live.ok("POST", f"{address}/stop", {"timeout_s": 0})
    live.kill("spawner")
    wait_for(lambda: not (disk(live, name) / "data" / left).exists(), "the volume to be swept")
    begun = live.ok("POST", f"{address}/start")
    assert live.ok("GET", f"{begun['status_url']}?wait_s=20")["status"] == "succeeded"
    assert sh(live, address, "ls -A / | grep -c quilt-0 || true") == "0\n"


def test_what_is_read_only_is_refused_and_said_to_be(
    live: Live, furnished: Callable[..., str], container: Callable[..., str]
) -> None:
    address = container(volumes=[f"{furnished()}:/data:ro"])
    for path, archive in (("/usr/local/bin", tar(("ten", FILE, b"10"))), ("/bin", tar(("ten", FILE, b"10"))),
                          ("/", tar(("usr/ten", FILE, b"10")))):  # fmt: skip
        ended = unpacked(live, address, path, archive)
        assert (ended["status"], ended["reason_code"]) == ("failed", "INVALID_VALUE"), ended
        assert "read-only" in ended["error"] and "image `debian`" in ended["error"], ended
    ended = unpacked(live, address, "/data", tar(("ten", FILE, b"10")))
    assert ended["reason_code"] == "INVALID_VALUE" and "read-only" in ended["error"], ended
    assert "debian" not in ended["error"]
