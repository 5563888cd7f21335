"""/api/images over a fake node: the list, one build at a time, failures, deletes that are refused; and which sites of
apt go into an image.
"""

from __future__ import annotations

import pytest

from pool.api import Report
from quilt_fn.errors import BuildFailed, Conflict
from runtime.spawner import debian
from runtime.spawner.protocol import Refused
from tests.fakes_gateway.http import serving
from tests.fakes_gateway.platform import OTHER_KEY, FakePlatform


class Reported:
    """What an operation's work said."""

    def __init__(self) -> None:
        self.messages: list[str | None] = []
        self.percent: list[float | None] = []

    def __call__(self, progress_pct: float | None = None, message: str | None = None) -> None:
        self.messages.append(message)
        self.percent.append(progress_pct)

    def warn(self, text: str) -> None: ...

    def item(self, index: int, **fields: object) -> None: ...


async def states(platform: FakePlatform) -> dict[str, str]:
    return {image.name: image.state for image in (await platform.images.list(10, None))[0]}


async def test_a_build_is_an_operation_and_there_is_one_at_a_time() -> None:
    platform = FakePlatform()
    async with serving(platform) as http:
        assert await states(platform) == {"host": "ready", "debian": "absent"}
        begun = await http("POST", "/api/images/debian/build")
        assert begun.status == 202
        assert await states(platform) == {"host": "ready", "debian": "building"}
        again = await http("POST", "/api/images/debian/build", key=OTHER_KEY)
        assert (again.status, again.code) == (409, "CONFLICT")
        assert (await http("DELETE", "/api/images/debian")).status == 409
        said: Report = (reported := Reported())
        result = await platform.operations.works[begun.json["operation_id"]](said)
        assert result is not None and result["fingerprint"] == "d" * 32
        assert (reported.messages, reported.percent) == (["I: extracting archives..."], [12.0])
        shown = (await http("GET", "/api/images")).json["images"][0]
        assert (shown["state"], shown["size_bytes"]) == ("ready", 5_000_000)
        assert shown["built_at"].startswith("1970-01-01T00:16:40")


async def test_a_build_that_failed_can_be_begun_again() -> None:
    platform = FakePlatform()
    platform.node_images.fail = BuildFailed("mmdebstrap ended with 1")
    record = await platform.images.build("t1", "debian")
    with pytest.raises(BuildFailed):
        await platform.operations.works[record.operation_id](Reported())
    assert (await states(platform))["debian"] == "absent"
    await platform.images.build("t1", "debian")


@pytest.mark.parametrize("name", ["host", "nothing", "debian%2F..%2Fhost"])
async def test_what_is_not_built_here_is_neither_built_nor_deleted(name: str) -> None:
    async with serving(FakePlatform()) as http:
        assert (await http("POST", f"/api/images/{name}/build")).code == "IMAGE_NOT_FOUND"
        assert (await http("DELETE", f"/api/images/{name}")).code == "IMAGE_NOT_FOUND"


async def test_an_image_that_is_used_stays() -> None:
    platform = FakePlatform()
    async with serving(platform) as http:
        assert (await http("DELETE", "/api/images/debian")).code == "IMAGE_NOT_FOUND"
        await platform.node_images.build("debian", lambda text, pct: None)
        platform.node_images.users = 2
        assert (await http("DELETE", "/api/images/debian")).status == 409
        platform.node_images.users = 0
        assert (await http("DELETE", "/api/images/debian")).status == 204
        with pytest.raises(Conflict):
            platform.node_images.users = 1
            await platform.node_images.build("debian", lambda text, pct: None)
            await platform.images.delete("debian")


def test_a_password_of_a_site_comes_neither_into_the_image_nor_into_progress() -> None:
    line = "deb https://me:secret@mirror.example:8443/debian stable main"
    assert debian._public(line) == "deb https://mirror.example:8443/debian stable main"
    assert "secret" not in debian._without_secrets(f"E: {line}: 404")


def test_another_distribution_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "_os_release", lambda: {"ID": "other", "VERSION_CODENAME": "one"})
    with pytest.raises(Refused, match="Debian only"):
        debian._sources()
