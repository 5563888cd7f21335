"""`quilt cp` on a real platform: where a file goes, as with cp."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cli import quilt
from tests.integration.live import Live, wait_for
from tests.integration.volume_tools import disk


@pytest.fixture(params=["container", "volume"])
def place(live: Live, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a container or a volume, with the folders `full` and `empty` and the file `here`."""
    kind = str(request.param)
    made = live.ok("POST", f"/api/{kind}s", {"name": f"cp-{kind}"})
    there = made["container_id"] if kind == "container" else f"cp-{kind}"
    yield f"cp-{kind}"
    live.ok("DELETE", f"/api/{kind}s/{there}")
    wait_for(lambda: live.ask("GET", f"/api/{kind}s/{there}").status == 404, "it to be gone")


def test_a_file_goes_into_a_folder_that_is_there(live: Live, place: str, tmp_path: Path) -> None:
    (tmp_path / "src" / "full").mkdir(parents=True)
    (tmp_path / "src" / "full" / "in").write_text("in")
    (tmp_path / "src" / "empty").mkdir()
    (tmp_path / "src" / "here").write_text("here")
    (tmp_path / "new").write_bytes(b"\0new")

    def cp(source: object, target: object) -> None:
        done = quilt(live, "cp", str(source), str(target))
        assert done.returncode == 0, done.stderr

    def read(path: str) -> bytes:
        cp(f"{place}:/srv/{path}", tmp_path / "back")
        return (tmp_path / "back").read_bytes()

    cp(tmp_path / "src", f"{place}:/srv")
    for folder in ("full", "empty"):
        cp(tmp_path / "new", f"{place}:/srv/{folder}")
        assert read(f"{folder}/new") == b"\0new"
    assert read("full/in") == b"in"
    cp(tmp_path / "new", f"{place}:/srv/here")
    cp(tmp_path / "new", f"{place}:/srv/made/below")
    assert (read("here"), read("made/below")) == (b"\0new", b"\0new")


def test_what_has_no_contents_is_refused_and_makes_nothing(live: Live, place: str, tmp_path: Path) -> None:
    special = "/dev/null" if place == "cp-container" else "/pipe"
    if place == "cp-volume":
        os.mkfifo(disk(live, place) / "data" / "pipe")
    done = quilt(live, "cp", f"{place}:{special}", str(tmp_path / "got"))
    assert (done.returncode, b"a pipe, a socket or a device" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "got").exists()


def test_a_file_of_the_kernel_is_whole(live: Live, place: str, tmp_path: Path) -> None:
    if place == "cp-container":
        done = quilt(live, "cp", f"{place}:/proc/version", str(tmp_path / "got"))
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "got").read_bytes() == Path("/proc/version").read_bytes()
