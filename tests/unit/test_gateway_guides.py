"""The guides: each concern has one, it names every route, and its JSON and Markdown say the same."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from gateway import guides
from gateway.app import CONCERNS, ROUTES
from gateway.route import Concern
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


async def test_what_nobody_made_has_no_guide() -> None:
    async with serving(FakePlatform()) as http:
        assert (await http("GET", "/api/snapshots/help")).status == 404
