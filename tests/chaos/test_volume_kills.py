"""kill -9 of node and spawner in the middle of what volumes do: the old file stays whole, and nothing is left.

Not here: full disks and clients that leave (tests/integration/test_volumes.py).
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable

import pytest

from tests.integration.live import Live, wait_for
from tests.integration.volume_tools import disk, half_archive, half_upload, loops, put, read, tar, volume

__all__ = ["volume"]


@pytest.mark.parametrize("who", ["node", "spawner"])
def test_a_kill_in_the_middle_of_an_upload_leaves_the_old_file(
    live: Live, volume: Callable[..., str], who: str
) -> None:
    name = volume()
    put(live, name, "f", b"old")
    sock = half_upload(live, name, "f")
    live.kill(who)
    wait_for(lambda: not list((disk(live, name) / "incoming").iterdir()), "the half to be taken away")
    sock.close()
    assert read(live, name, "f").body == b"old"
    assert put(live, name, "f", b"new").status == 201


@pytest.mark.parametrize("who", ["node", "spawner"])
def test_a_kill_in_the_middle_of_an_archive_leaves_nothing_of_it(
    live: Live, volume: Callable[..., str], who: str
) -> None:
    name = volume()
    put(live, name, "f", b"old")
    begun = tar(("f", tarfile.REGTYPE, b"new"), ("g", tarfile.REGTYPE, bytes(1 << 20)), mode="w")[: 1 << 20]
    sock = half_archive(live, f"/api/volumes/{name}/archive", begun)
    incoming = disk(live, name) / "incoming"
    wait_for(lambda: any(incoming.glob(".quilt-*/tree/f")), "the first entry to be staged")
    live.kill(who)
    wait_for(lambda: not list(incoming.iterdir()), "the stage to be taken away")
    sock.close()
    assert read(live, name, "f").body == b"old"
    assert read(live, name, "g").status == 404


@pytest.mark.parametrize("who", ["node", "spawner"])
@pytest.mark.parametrize("limit", [None, 16])
def test_a_kill_in_the_middle_of_a_delete_leaves_nothing(
    live: Live, volume: Callable[..., str], who: str, limit: int | None
) -> None:
    name = volume(size_limit_mb=limit)
    live.ok("POST", f"/api/volumes/{name}/archive", tar(*((f"{n}/f", tarfile.REGTYPE, b"") for n in range(300))))
    folder = disk(live, name)
    live.ok("DELETE", f"/api/volumes/{name}")
    live.kill(who)
    wait_for(lambda: not list(folder.parent.glob(f"*{folder.name}*")), "its folder to go")
    wait_for(lambda: folder.name not in loops(), "its loop device to go")
    assert live.ask("GET", f"/api/volumes/{name}").status == 404


def test_a_limited_volume_outlives_a_kill_of_the_spawner(live: Live, volume: Callable[..., str]) -> None:
    name = volume(size_limit_mb=16)
    put(live, name, "f", b"kept")
    live.kill("spawner")
    assert read(live, name, "f").body == b"kept"
