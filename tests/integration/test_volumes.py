"""Volumes on a real platform: files, archives, limits, attachments, and what is hostile in each of them."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.census import SMALL_DISKS
from tests.integration.cli import quilt
from tests.integration.live import Answer, Live, running, wait_for
from tests.integration.volume_tools import MIB, delete, disk, half_upload, loops, names, put, read, tar, volume

__all__ = ["volume"]


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_goes_up_and_down_whole_and_in_part(live: Live, volume: Callable[..., str]) -> None:
    name = volume()
    content = os.urandom(3 * MIB + 7)
    assert put(live, name, "a/b/c.bin", content, "?mode=640").json() == {"path": "a/b/c.bin", "size": len(content)}
    whole = read(live, name, "a/b/c.bin")
    assert (whole.status, whole.body, whole.headers["x-quilt-file-mode"]) == (200, content, "640")
    for header, wanted in (
        ("bytes=0-9", content[:10]),
        ("bytes=-5", content[-5:]),
        ("bytes=3000000-", content[3000000:]),
    ):
        part = read(live, name, "a/b/c.bin", Range=header)
        assert (part.status, part.body) == (206, wanted), header
    beyond = read(live, name, "a/b/c.bin", Range="bytes=99999999-")
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{len(content)}")
    assert put(live, name, "a/b/c.bin", b"new").status == 201
    assert read(live, name, "a/b/c.bin").headers["x-quilt-file-mode"] == "640", "the mode before is kept"
    assert read(live, name, "a").code == "INVALID_VALUE"
    assert read(live, name, "nix").code == "FILE_NOT_FOUND"
    assert put(live, name, "a", b"").code == "INVALID_VALUE", "a folder is not replaced by a file"
    for below in (put(live, name, "a/b/c.bin/under", b""), live.ask("GET", f"/api/volumes/{name}/ls?path=a/b/c.bin")):
        assert below.code == "INVALID_VALUE" and "a file lies where a folder is needed" in below.json()["error"]
    assert live.ask("DELETE", f"/api/volumes/{name}/files/a").code == "INVALID_VALUE"
    assert live.ask("DELETE", f"/api/volumes/{name}/files/a?recursive=true").status == 204
    assert names(live, name) == []


def test_a_listing_comes_in_pages_in_a_stable_order(live: Live, volume: Callable[..., str]) -> None:
    name = volume()
    archive = tar(*((f"f{n:03}", tarfile.REGTYPE, b"") for n in range(25)))
    live.ok("POST", f"/api/volumes/{name}/archive", archive)
    found: list[str] = []
    cursor = ""
    while cursor is not None:
        page = live.ok("GET", f"/api/volumes/{name}/ls?limit=10" + (f"&cursor={cursor}" if cursor else ""))
        found += [entry["name"] for entry in page["entries"]]
        cursor = page["next_cursor"]
    assert found == [f"f{n:03}" for n in range(25)]


@pytest.mark.parametrize("path", ["../x", "a/../../x", "%2e%2e/x", "%2fetc/x", "a%00b", "x" * 300, "/".join("d" * 250)])
def test_paths_that_lead_out_are_refused(live: Live, volume: Callable[..., str], path: str) -> None:
    name = volume()
    assert (put(live, name, path, b"1").status, names(live, name)) == (422, [])
    assert live.ask("POST", f"/api/volumes/{name}/files", {"path": "../x", "content": ""}).status == 422


def test_links_are_followed_within_the_volume_only(live: Live, volume: Callable[..., str]) -> None:
    name = volume()
    put(live, name, "in/file", b"inside")
    data = disk(live, name) / "data"
    for link, target in (("abs", "/etc"), ("up", ".."), ("far", "in/../../.."), ("ok", "in"), ("loop", "loop"),
                         ("proc", "/proc/self/root")):  # fmt: skip
        (data / link).symlink_to(target)
    assert read(live, name, "ok/file").body == b"inside"
    for path in ("abs/passwd", "up/incoming", "far/etc/passwd", "loop/x", "proc/etc/passwd"):
        assert read(live, name, path).status in (404, 422), path
        assert put(live, name, path, b"1").status == 422, path
    assert not Path("/etc/x").exists()
    assert put(live, name, "abs", b"now a file").status == 201, "the link itself is replaced"
    assert Path("/etc/passwd").is_file()


def test_what_is_no_file_is_neither_read_nor_waited_for(live: Live, volume: Callable[..., str]) -> None:
    name = volume()
    data = disk(live, name) / "data"
    os.mkfifo(data / "pipe")
    os.mknod(data / "null", 0o20666, os.makedev(1, 3))
    assert read(live, name, "pipe").code == "INVALID_VALUE"
    assert read(live, name, "null").status >= 400
    packed = live.ask("GET", f"/api/volumes/{name}/archive")
    assert tarfile.open(fileobj=io.BytesIO(packed.body)).getnames() == []  # noqa: SIM115


def test_a_link_that_is_swapped_all_the_time_leads_nowhere(live: Live, volume: Callable[..., str]) -> None:
    """A folder of the volume is replaced by a link to /etc and back while files are read and written through it."""
    name = volume()
    data = disk(live, name) / "data"
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):  # a write through it may come between
                (data / "way").symlink_to("/etc")
            with contextlib.suppress(OSError):
                (data / "way").unlink()
            with contextlib.suppress(OSError):
                (data / "way").mkdir()
            shutil.rmtree(data / "way", ignore_errors=True)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(40):
            got = read(live, name, "way/passwd")
            assert got.status in (404, 422, 503) and b"root:" not in got.body
            assert put(live, name, "way/quilt-was-here", b"1").status in (201, 404, 422, 503)
    finally:
        over.set()
        thread.join()
    assert not Path("/etc/quilt-was-here").exists()


# --- archives ---------------------------------------------------------------------------------------------------------


def test_an_archive_goes_in_and_out(live: Live, volume: Callable[..., str]) -> None:
    name = volume()
    archive = tar(
        ("top/x/file", tarfile.REGTYPE, b"1" * (2 * MIB)), ("top/link", tarfile.SYMTYPE, "x/file"),
        ("top/hard", tarfile.LNKTYPE, "top/x/file"), ("top/empty", tarfile.DIRTYPE, b""),
    )  # fmt: skip
    done = live.ok("POST", f"/api/volumes/{name}/archive?path=sub&strip_components=1", archive)
    assert done == {"path": "sub", "entries": 4, "bytes": 2 * MIB}
    assert names(live, name, "sub") == ["empty", "hard", "link", "x"]
    assert read(live, name, "sub/hard").body == b"1" * (2 * MIB)
    for form, mode in (("tar", "r:"), ("tar.gz", "r:gz")):
        packed = live.ask("GET", f"/api/volumes/{name}/archive?path=sub&format={form}")
        with tarfile.open(fileobj=io.BytesIO(packed.body), mode=mode) as back:  # type: ignore[call-overload]
            assert back.getnames() == ["empty", "hard", "link", "x", "x/file"]
            assert back.getmember("link").linkname == "x/file"
    assert live.ask("GET", f"/api/volumes/{name}/archive?path=nix").code == "FILE_NOT_FOUND"


HOSTILE = {
    "up": tar(("../x", tarfile.REGTYPE, b"1")),
    "absolute": tar(("/x", tarfile.REGTYPE, b"1"), mode="w"),
    "through a link": tar(("s", tarfile.SYMTYPE, "/etc"), ("s/quilt-x", tarfile.REGTYPE, b"1")),
    "through a link upwards": tar(("s", tarfile.SYMTYPE, ".."), ("s/incoming/x", tarfile.REGTYPE, b"1")),
    "hard link up": tar(("h", tarfile.LNKTYPE, "../incoming")),
    "hard link to a link's end": tar(("s", tarfile.SYMTYPE, "/etc/passwd"), ("h", tarfile.LNKTYPE, "s")),
    "device": tar(("dev", tarfile.CHRTYPE, "")),
    "pipe": tar(("fifo", tarfile.FIFOTYPE, "")),
    "a header of two megabytes": tar(("y" * 2_000_000, tarfile.REGTYPE, b"1")),
    "deeper than paths go": tar(("d/" * 300 + "f", tarfile.REGTYPE, b"1")),
    "no archive": b"x" * 10_000,
    "nothing": b"",
    "cut": tar(("f", tarfile.REGTYPE, os.urandom(100_000)))[:50_000],
    "a wrong checksum": tar(("f", tarfile.REGTYPE, b"1"))[:-8] + bytes(8),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives_stay_inside(live: Live, volume: Callable[..., str], what: str) -> None:
    name = volume()
    got = live.ask("POST", f"/api/volumes/{name}/archive", HOSTILE[what])
    assert (got.status, got.code) == (422, "INVALID_VALUE"), (what, got.body)
    assert not Path("/etc/quilt-x").exists()
    assert list((disk(live, name) / "incoming").iterdir()) == []
    assert put(live, name, "after", b"1").status == 201


def test_trees_thousands_deep_are_refused_and_removed(live: Live, volume: Callable[..., str]) -> None:
    name = volume()
    owner = (disk(live, name) / "data").stat().st_uid
    folder = os.open(disk(live, name) / "data", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=folder)
        os.chown("d", owner, owner, dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    assert live.ok("GET", f"/api/volumes/{name}/inspect")["complete"] is False
    with pytest.raises((http.client.HTTPException, OSError)):  # cut in the middle: nobody takes it for the whole
        live.ask("GET", f"/api/volumes/{name}/archive")
    assert live.ask("DELETE", f"/api/volumes/{name}/files/d?recursive=true").status == 204
    assert names(live, name) == []


# --- room -------------------------------------------------------------------------------------------------------------


def test_a_full_volume_says_so_and_harms_nothing(live: Live, volume: Callable[..., str]) -> None:
    small, other = volume(size_limit_mb=16), volume()
    assert put(live, small, "kept", b"old").status == 201
    for path in ("kept", "big"):
        got = put(live, small, path, bytes(20 * MIB))
        assert (got.status, got.code) == (413, "VOLUME_FULL")
    zeros = tar(("zeros", tarfile.REGTYPE, bytes(40 * MIB)))
    assert live.ask("POST", f"/api/volumes/{small}/archive", zeros).code == "VOLUME_FULL"
    assert read(live, small, "kept").body == b"old"
    assert put(live, small, "kept", b"new").status == 201
    assert put(live, other, "f", bytes(20 * MIB)).status == 201
    assert names(live, small) == ["kept"]


def test_no_loop_device_outlives_its_volume(live: Live, volume: Callable[..., str]) -> None:
    name = volume(size_limit_mb=16)
    volume_id = live.ok("GET", f"/api/volumes/{name}")["volume_id"]
    assert volume_id in loops()
    delete(live, name)
    wait_for(lambda: volume_id not in loops(), "the loop device to go")


# --- names, tenants, attachments --------------------------------------------------------------------------------------


def test_of_two_deletes_at_once_one_finds_nothing(live: Live, volume: Callable[..., str]) -> None:
    name = volume()
    answers = live.many(2, lambda _: live.ask("DELETE", f"/api/volumes/{name}").status)
    assert sorted(answers) == [202, 404]
    assert live.ask("POST", "/api/volumes", {"name": name}).status == 201, "the name is free at once"


def test_containers_share_a_volume_within_its_limit(live: Live, volume: Callable[..., str]) -> None:
    name = volume(size_limit_mb=16)
    put(live, name, "given", b"by the API")
    script = (
        "cat /data/given; echo; touch /ro/x || echo read-only; mount -o remount,rw /ro || echo no-remount; "
        "head -c 30000000 /dev/zero > /data/big || echo full; rm /data/big; echo left > /data/left; "
        "mknod /data/dev c 1 3 || echo no-device"
    )
    made = live.ok("POST", "/api/containers", {
        "name": f"c-{name}", "volumes": [f"{name}:/data", f"{name}:/ro:ro"], "command": ["sh", "-c", script],
    })  # fmt: skip
    address = f"/api/containers/{made['container_id']}"
    try:
        wait_for(lambda: live.ok("GET", address)["exit_code"] is not None, "the command to end")
        lines = [line["text"] for line in lines_of(live.ask("GET", f"{address}/logs")) if line["stream"] == "stdout"]
        assert lines == ["by the API", "read-only", "no-remount", "full", "no-device"]
        assert read(live, name, "left").body == b"left\n"
        got = live.ask("DELETE", f"/api/volumes/{name}")
        assert (got.code, got.json()["details"]) == ("VOLUME_ATTACHED", {"attached_to": [f"container:c-{name}"]})
        assert live.ask("POST", f"/api/volumes/{name}/rename", {"new_name": "other"}).code == "VOLUME_ATTACHED"
    finally:
        live.ok("DELETE", address)
    delete(live, name)


def lines_of(answer: Answer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.body.splitlines() if line.strip()]


def test_archives_in_and_out_of_a_container(live: Live, volume: Callable[..., str]) -> None:
    name = volume()
    made = live.ok("POST", "/api/containers", {"name": f"a-{name}", "volumes": [f"{name}:/data"]})
    address = f"/api/containers/{made['container_id']}"
    try:
        entries = tar(("top/x/file", tarfile.REGTYPE, b"1" * MIB), ("top/link", tarfile.SYMTYPE, "x/file"))
        for path in ("/srv/new", "/data"):
            begun = live.ok("POST", f"{address}/archive?path={path}&strip_components=1", entries)
            ended = live.ok("GET", f"{begun['status_url']}?wait_s=20")
            assert ended["result"] == {"path": path, "entries": 2, "bytes": MIB}, ended
            packed = live.ask("GET", f"{address}/archive?path={path}")
            with tarfile.open(fileobj=io.BytesIO(packed.body)) as back:
                assert back.getnames() == ["link", "x", "x/file"]
        assert read(live, name, "x/file").body == b"1" * MIB
        for what in ("up", "absolute", "device", "pipe", "no archive"):
            begun = live.ok("POST", f"{address}/archive?path=/srv", HOSTILE[what])
            ended = live.ok("GET", f"{begun['status_url']}?wait_s=20")
            assert (ended["status"], ended["reason_code"]) == ("failed", "INVALID_VALUE"), (what, ended)
        assert not Path("/etc/quilt-x").exists()
        absent, above = (live.ask("GET", f"{address}/archive?path={path}") for path in ("/nix", "/../../etc"))
        assert (absent.code, absent.json()["error"]) == ("FILE_NOT_FOUND", "'/nix' is not there")
        assert above.code == "INVALID_VALUE" and "'/../../etc'" in above.json()["error"]
        assert "volume" not in above.json()["error"]
        live.ok("POST", f"{address}/stop", {"timeout_s": 0})
        assert live.ask("GET", f"{address}/archive?path=/srv").code == "CONTAINER_NOT_RUNNING"
        assert live.ask("POST", f"{address}/archive?path=/srv", entries).code == "CONTAINER_NOT_RUNNING"
    finally:
        live.ok("DELETE", address)


@pytest.mark.parametrize("target", ["/", "/usr", "/etc", "/etc/x", "/proc/x", "/dev", "/sys", "/opt/quilt/guest",
                                    "/a/../etc", "relative"])  # fmt: skip
def test_targets_of_the_platform_are_refused(live: Live, volume: Callable[..., str], target: str) -> None:
    spec = {"name": "never", "volumes": [f"{volume()}:{target}"]}
    assert live.ask("POST", "/api/containers", spec).status == 422
    assert live.ask("GET", "/api/containers/by-name/never").status == 404


def test_a_link_planted_at_a_target_leads_nowhere(live: Live, volume: Callable[..., str]) -> None:
    """The writable layer is the tenant's: what an earlier life of the container left must not move the mount."""
    name = volume()
    made = live.ok("POST", "/api/containers", {"name": f"l-{name}", "volumes": [f"{name}:/a/b"]})
    address = f"/api/containers/{made['container_id']}"
    try:
        live.ok("POST", f"{address}/stop", {"timeout_s": 0})
        layer = next(live.root_dir.glob(f"machines/{made['container_id']}/upper"))
        (layer / "a" / "b").rmdir()
        (layer / "a").rmdir()
        (layer / "a").symlink_to("/etc")
        started = live.ask("POST", f"{address}/start")
        if started.status == 202:
            ended = live.ok("GET", f"/api/operations/{started.json()['operation_id']}?wait_s=20")
            assert ended["status"] == "failed" and "link" in ended["error"], ended
        else:
            assert started.status == 422, started.body
        assert not Path("/etc/b").exists()
    finally:
        live.ok("DELETE", address)


def test_a_function_has_its_volumes_in_instances_alone(live: Live, volume: Callable[..., str]) -> None:
    name = volume()
    source = """
        import os
        AT_IMPORT = os.path.exists("/data")
        def handler(event):
            with open("/data/log", "a") as file:
                file.write("x")
            return {"at_import": AT_IMPORT, "length": os.path.getsize("/data/log"), "ro": os.access("/ro", os.W_OK)}
    """
    function = live.deploy(source, volumes=[f"{name}:/data", f"{name}:/ro:ro"])
    try:
        assert live.call(function) == {"at_import": False, "length": 1, "ro": False}
        live.drop_instances(function, template=True)
        assert live.call(function)["length"] == 2, "also after a restore"
        assert read(live, name, "log").body == b"xx"
        assert live.ask("DELETE", f"/api/volumes/{name}").code == "VOLUME_ATTACHED"
    finally:
        live.delete(function)
    wait_for(lambda: not live.ok("GET", f"/api/volumes/{name}")["attached_to"], "the function to go")


def test_a_function_that_cannot_fork_takes_no_volumes(live: Live, volume: Callable[..., str]) -> None:
    source = """
        import threading
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        def handler(event): return 1
    """
    name = live.create(source, volumes=[f"{volume()}:/data"])
    got = live.ask("POST", f"/api/functions/{live.id(name)}/deploy")
    assert (got.status, got.code) == (422, "BUILD_FAILED") and "forks" in got.json()["error"]
    live.delete(name)


# --- bad days ---------------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_in_the_middle_changes_nothing(live: Live, volume: Callable[..., str]) -> None:
    name = volume()
    put(live, name, "f", b"old")
    half_upload(live, name, "f").close()
    wait_for(lambda: not list((disk(live, name) / "incoming").iterdir()), "the half to be taken away")
    assert read(live, name, "f").body == b"old"


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    """A filesystem of 700 MiB, for a platform's state folder."""
    top = Path(tempfile.mkdtemp(prefix=Path(SMALL_DISKS).name, dir=Path(SMALL_DISKS).parent))
    top.chmod(0o755)
    image, folder = top / "disk", top / "mounted"
    folder.mkdir()
    image.touch()
    os.truncate(image, 700 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        (folder / "p").mkdir()
        yield folder / "p"
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(top)


def fill(live: Live, volume: str) -> None:
    """All but 5 MiB."""
    room = live.ok("GET", f"/api/volumes/{volume}/inspect")["free_bytes"]
    ballast = disk(live, volume) / "data" / "ballast"
    subprocess.run(["fallocate", "-l", str(room - 5 * MIB), str(ballast)], check=True)


def test_on_a_full_disk_a_write_fails_alone() -> None:
    """What is kept free lets the platform go on working."""
    with small_disk() as folder, running(folder=folder, extra={"QUILT_DISK_RESERVE_MB": "0"}) as small:
        small.ok("POST", "/api/volumes", {"name": "v"})
        assert put(small, "v", "kept", b"old").status == 201
        fill(small, "v")
        for path in ("kept", "other"):
            assert put(small, "v", path, bytes(30 * MIB)).code == "VOLUME_FULL"
        assert read(small, "v", "kept").body == b"old"
        assert small.call(small.deploy("def handler(event): return 1")) == 1


def test_below_the_floor_of_free_disk_nothing_new_is_taken() -> None:
    """What is there goes on, and deleting makes room."""
    with small_disk() as folder, running(folder=folder, extra={"QUILT_DISK_RESERVE_MB": "64"}) as small:
        name = small.deploy("def handler(event): return 1")
        small.ok("POST", "/api/volumes", {"name": "v"})
        fill(small, "v")
        assert put(small, "v", "new", b"new").code == "DISK_FULL"
        assert small.ask("POST", "/api/containers", {"name": "c"}).code == "DISK_FULL"
        assert small.call(name) == 1
        assert small.ask("DELETE", "/api/volumes/v/files/ballast").status == 204
        assert put(small, "v", "new", b"new").status == 201


def test_whatever_a_file_is_called_it_can_be_read_and_removed(live: Live, volume: Callable[..., str]) -> None:
    name = volume()
    data = os.fsencode(disk(live, name) / "data")
    for file in (b"n\nl", b"\xff", b"%FF"):
        with open(data + b"/" + file, "wb") as made:
            made.write(file)
    assert names(live, name) == ["%FF", "n\nl", "\\xff"]
    assert [read(live, name, path).body for path in ("n%0Al", "%FF", "%25FF")] == [b"n\nl", b"\xff", b"%FF"]
    listed = quilt(live, "volumes", "ls", name)
    assert b"n\\nl" in listed.stdout and b"\\xff" in listed.stdout, listed
    for path in ("n\nl", os.fsdecode(b"\xff"), "%FF"):
        done = quilt(live, "volumes", "rm", f"{name}:{path}")
        assert done.returncode == 0, done.stderr
    assert names(live, name) == []
