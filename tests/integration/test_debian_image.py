"""The image `debian` on a real platform: refused before it is built, gone when a build is killed, then packages by
apt-get and pip as the container's root, kept over a restart, and not deleted while it is used.

Not here: /api/images over a fake (tests/unit). Takes root, mmdebstrap, and the packages site of this machine's apt.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.live import Live, running, wait_for

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the spawner needs root"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
    pytest.mark.skipif("ID=debian" not in Path("/etc/os-release").read_text().split(), reason="this is not Debian"),
]
BUILD_S = 600.0


@pytest.fixture(scope="module")
def own() -> Iterator[Live]:
    with running() as live:
        yield live


def debian(live: Live) -> dict[str, Any]:
    found: list[dict[str, Any]] = live.ok("GET", "/api/images")["images"]
    return next(each for each in found if each["name"] == "debian")


def store(live: Live) -> Path:
    return live.root_dir / "store/images"


def builders(live: Live) -> list[int]:
    """The processes that build an image below this platform's state folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "mmdebstrap" in words and str(store(live)) in words:
            found.append(int(path.parent.name))
    return found


def run(live: Live, container: str, *command: str) -> str:
    done = live.ok(
        "POST", f"/api/containers/{container}/exec", {"command": command, "timeout_ms": 300_000}, timeout_s=330
    )
    assert done["exit_code"] == 0, done
    return str(done["stdout"])


def test_before_it_is_built_a_container_of_it_is_refused_with_the_command_that_builds_it(own: Live) -> None:
    answer = own.ask("POST", "/api/containers", {"name": "early", "image": "debian"})
    assert (answer.status, answer.code) == (404, "IMAGE_NOT_FOUND")
    assert "quilt images build debian" in answer.json()["hint"]
    assert own.ok("GET", "/api/containers")["containers"] == []


def test_a_build_that_is_killed_leaves_nothing(own: Live) -> None:
    begun = own.ok("POST", "/api/images/debian/build")
    pids = wait_for(lambda: builders(own), "a builder")
    os.kill(pids[0], signal.SIGKILL)
    ended = own.ok("GET", f"/api/operations/{begun['operation_id']}?wait_s=60")
    assert ended["status"] == "failed" and ended["reason_code"] == "BUILD_FAILED", ended
    wait_for(lambda: not builders(own), "the end of all builders")
    assert [path.name for path in store(own).iterdir() if "debian" in path.name] == []
    assert debian(own)["state"] == "absent"


@pytest.mark.timeout(BUILD_S + 300)  # of packages from a mirror, and on as busy a machine as may be
def test_apt_and_pip_work_in_it_and_it_stays(own: Live) -> None:
    begun = own.ok("POST", "/api/images/debian/build")
    seen: list[float] = []

    def over() -> bool:
        seen.append(own.ok("GET", f"/api/operations/{begun['operation_id']}")["progress_pct"])
        return bool(debian(own)["state"] != "building")

    wait_for(over, "the build", BUILD_S)
    assert seen == sorted(seen), "it never falls"
    assert len({round(pct) for pct in seen}) > 20, seen
    ended = own.ok("GET", f"/api/operations/{begun['operation_id']}?wait_s=10")
    assert ended["status"] == "succeeded", ended
    assert ended["result"]["size_bytes"] > 50_000_000
    made = own.ok("POST", "/api/containers", {"name": "mine", "image": "debian"})["container_id"]
    run(own, made, "apt-get", "update")
    run(own, made, "apt-get", "install", "-y", "hello")
    assert run(own, made, "hello") == "Hello, world!\n"
    run(own, made, "pip", "install", "iniconfig")
    run(own, made, "python3", "-c", "import iniconfig")
    refused = own.ask("DELETE", "/api/images/debian")
    assert (refused.status, refused.code) == (409, "CONFLICT")
    own.ok("DELETE", f"/api/containers/{made}")
    assert own.ask("DELETE", "/api/images/debian").status == 204
    assert debian(own)["state"] == "absent"
    assert [path.name for path in store(own).iterdir() if "debian" in path.name] == []
