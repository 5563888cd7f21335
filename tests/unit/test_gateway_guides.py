"""The guides: each concern has one, it names every route, its JSON and Markdown say the same; its health is asked."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from gateway import guides
from gateway.app import CONCERNS, ROUTES
from gateway.route import Concern
from quilt_fn.errors import LimitReached, RegistryUnavailable
from tests.fakes_gateway.http import serving
from tests.fakes_gateway.platform import FakePlatform

by_concern = pytest.mark.parametrize("concern", CONCERNS, ids=lambda concern: concern.name)


@by_concern
def test_the_guide_has_every_route_field_and_state(concern: Concern) -> None:
    found = guides.guide(concern)
    assert len(found["routes"]) == len(concern.routes)
    for route, about in zip(concern.routes, found["routes"], strict=True):
        assert about["method"] == route.method
        assert about["says"] == route.says
        if isinstance(route.body, type) and issubclass(route.body, BaseModel):
            assert [field["name"] for field in about["body"]] == list(route.body.model_json_schema()["properties"])
    assert set(found["states"]) == set(concern.states)
    assert all(found["states"].values())


@by_concern
def test_the_page_names_what_the_json_names(concern: Concern) -> None:
    page, found = guides.markdown(concern), guides.guide(concern)
    for route in found["routes"]:
        assert f"### {route['method']} {route['path']}\n" in page
    for rule in found["rules"]:
        assert f"- {rule}\n" in page


@by_concern
def test_no_reference_is_left_unresolved(concern: Concern) -> None:
    assert "$ref" not in str(guides.guide(concern))


@by_concern
def test_each_concern_answers_help(concern: Concern) -> None:
    assert [route.method for route in ROUTES if route.path == f"/api/{concern.name}/help"] == ["GET"]


@by_concern
async def test_help_is_json_or_markdown_and_needs_a_key(concern: Concern) -> None:
    path = f"/api/{concern.name}/help"
    async with serving(FakePlatform()) as http:
        assert (await http("GET", path)).json == guides.guide(concern)
        for found in (
            await http("GET", path + "?format=markdown"),
            await http("GET", path, headers={"Accept": "text/markdown"}),
        ):
            assert found.headers["Content-Type"].startswith("text/markdown")
            assert found.body.decode() == guides.markdown(concern)
        assert (await http("GET", path + "?format=xml")).status == 422
        assert (await http("GET", path, key=None)).status == 401


HEALTHY = {"healthy": True, "reason": None}


@by_concern
async def test_examples_are_json_or_markdown_and_say_the_same(concern: Concern) -> None:
    path = f"/api/{concern.name}/examples"
    async with serving(FakePlatform()) as http:
        found = (await http("GET", path)).json
        assert found == guides.examples(concern)
        page = (await http("GET", path + "?format=markdown")).body.decode()
    assert found["examples"]
    for each in found["examples"]:
        assert f"    {each['method']} {each['path']}\n" in page
        assert each["curl"] in page


@by_concern
async def test_a_concern_is_healthy_while_what_it_needs_answers(concern: Concern) -> None:
    path = f"/api/{concern.name}/health"
    async with serving(FakePlatform()) as http:
        assert (await http("GET", path)).json == {"concern": concern.name, **HEALTHY}
        assert b"can work now" in (await http("GET", path + "?format=markdown")).body
        assert (await http("GET", path, key=None)).status == 401


@pytest.mark.parametrize(
    ("feature", "concerned"),
    [
        ("spawner", {"functions", "containers", "terminal", "network", "volumes", "images", "elasticity"}),
        ("network", {"network"}),
        ("disk", {"functions", "containers", "volumes", "images"}),
    ],
)
async def test_a_missing_feature_is_told_with_its_reason(feature: str, concerned: set[str]) -> None:
    platform = FakePlatform()
    platform.features[feature] = {"available": False, "reason": "it is away"}
    async with serving(platform) as http:
        found = [(await http("GET", f"/api/{concern.name}/health")).json for concern in CONCERNS]
    assert {each["concern"] for each in found if not each["healthy"]} == concerned
    assert {each["reason"] for each in found} == {None, "it is away"}


async def test_redis_is_asked_and_not_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_asked: object) -> None:
        raise RegistryUnavailable("Redis is away")

    platform = FakePlatform()
    monkeypatch.setattr(platform.operations, "list", away)
    async with serving(platform) as http:
        found = [(await http("GET", f"/api/{concern.name}/health")).json for concern in CONCERNS]
    unhealthy = {"functions", "containers", "operations", "volumes", "elasticity"}
    assert {each["concern"] for each in found if not each["healthy"]} == unhealthy


async def test_streams_are_unhealthy_while_the_tenant_can_open_no_more() -> None:
    platform = FakePlatform()
    held = []
    with pytest.raises(LimitReached):
        while True:
            held.append(platform.events.listen("t1", {}))
    async with serving(platform) as http:
        assert not (await http("GET", "/api/events/health")).json["healthy"]
        held.pop().close()
        assert (await http("GET", "/api/events/health")).json["healthy"]


async def test_what_nobody_made_has_no_guide() -> None:
    async with serving(FakePlatform()) as http:
        assert (await http("GET", "/api/snapshots/help")).status == 404
