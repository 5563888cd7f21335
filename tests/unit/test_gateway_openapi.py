"""Every route says what it takes and answers, and /openapi.json and /docs say all of it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel

from gateway import openapi
from gateway.app import CONCERNS, ROUTES
from gateway.route import Route
from tests.fakes_gateway.http import serving
from tests.fakes_gateway.platform import KEY, FakePlatform

QUERY = re.compile(r"""(?:number|seconds|flag)\(\s*"(\w+)"|query\.(?:get|getall)\(\s*"(\w+)"|query\["(\w+)"\]""")
by_route = pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")


@by_route
def test_a_route_says_what_it_answers(route: Route) -> None:
    assert route.says
    assert (route.answers is None) == (route.status in (101, 204)), "an answer with a body needs `answers`"
    if isinstance(route.answers, str):
        assert "/" in route.answers, "a media type"


@by_route
def test_what_answers_a_next_cursor_takes_a_cursor(route: Route) -> None:
    if isinstance(route.answers, Mapping) and "next_cursor" in route.answers:
        source = inspect.getsource(route.handler)
        assert {"limit", "cursor"} <= {query.name for query in route.query}
        assert "pages.page(" in source and "pages.asked(ask)" in source


@by_route
def test_a_route_says_what_it_takes(route: Route) -> None:
    source = inspect.getsource(route.handler)
    parsed = re.search(r"body\.parse\(\s*(\w+)", source)
    if parsed:
        assert isinstance(route.body, type)
        assert issubclass(route.body, BaseModel)
        assert route.body.__name__ == parsed[1]
    if "pieces(" in source or "raw(ask)" in source:
        assert isinstance(route.body, str) or "pack" in source
    if route.method in ("GET", "DELETE"):
        assert route.body is None


@by_route
def test_a_route_names_what_its_handler_reads_of_the_query(route: Route) -> None:
    source = inspect.getsource(route.handler).replace("query.get('", 'query.get("')
    read = {name for found in QUERY.findall(source) for name in found if name}
    assert read <= {query.name for query in route.query}


def test_the_document_is_valid_and_has_every_route() -> None:
    found = json.loads(json.dumps(openapi.document(ROUTES, CONCERNS)))
    OpenAPIV31SpecValidator(found).validate()
    assert {(method.upper(), path) for path, methods in found["paths"].items() for method in methods} == {
        (route.method, route.shown_path) for route in ROUTES
    }
    ids = [operation["operationId"] for methods in found["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))


def test_the_document_says_how_to_ask() -> None:
    paths = openapi.document(ROUTES, CONCERNS)["paths"]
    create, logs = paths["/api/containers"]["post"], paths["/api/containers/{container_id}/logs"]["get"]
    assert "Idempotency-Key" in [each["name"] for each in create["parameters"]]
    assert create["security"] == [{"key": []}, {"bearer": []}]
    assert {"token": []} in logs["security"]
    assert paths["/health"]["get"]["security"] == []
    assert create["responses"]["default"] == {"$ref": "#/components/responses/Error"}


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
async def test_it_needs_a_key_unless_opened_to_loopback(path: str) -> None:
    async with serving(FakePlatform()) as http:
        assert (await http("GET", path, key=None)).status == 401
        assert (await http("GET", path)).status == 200
        assert (await http("GET", f"{path}?token={KEY}", key=None)).status == 200
    async with serving(FakePlatform(), public_metrics=True) as opened:
        assert (await opened("GET", path, key=None)).status == 200


async def test_the_page_shows_every_route_and_loads_nothing() -> None:
    async with serving(FakePlatform()) as http:
        found = await http("GET", "/docs")
    page = found.body.decode()
    for route in ROUTES:
        assert f"<code>{route.method} {route.shown_path}</code>" in page
    assert "<script" not in page
    assert "src=" not in page
    assert "default-src 'none'" in found.headers["Content-Security-Policy"]
