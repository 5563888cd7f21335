"""`GET /openapi.json` (OpenAPI 3.1) and `GET /docs`, a page of the same: both made from the route table and the models.

Not here: the guides of single concerns (`gateway.guides`), nor the pages in docs/reference (`gateway.docs`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version as package_version
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway import docs_page
from gateway.context import Ask, answer
from gateway.idempotency import HEADER
from gateway.route import Concern, Query, Route
from quilt_fn.model.common import ErrorBody

JSON = "application/json"
SCHEMAS = "#/components/schemas/"
ABOUT = """\
Functions are called at `/fn/{name}`, published services at `/linx/{service_id}/`; what these take and answer is theirs.
Every answer carries `X-Request-Id`. 429 and 503 carry `Retry-After`, where waiting helps.
"""
SECURITY = {
    "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
    "token": {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "For clients that can't set headers; only where it is named.",
    },
}
IDEMPOTENCY = {
    "name": HEADER,
    "in": "header",
    "description": "A repeated request with the same key gets the answer of the first, for 24 hours.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
Mode = Literal["validation", "serialization"]


def routes(table: Callable[[], tuple[Sequence[Route], Sequence[Concern]]]) -> tuple[Route, ...]:
    """`table` is asked for all routes, these too, and all concerns, when somebody wants the document."""

    @functools.cache
    def made() -> dict[str, Any]:
        return document(*table())

    async def openapi(_ask: Ask) -> web.StreamResponse:
        return answer(made())

    async def page(_ask: Ask) -> web.StreamResponse:
        text = docs_page.page(made())
        return web.Response(text=text, content_type="text/html", headers=docs_page.HEADERS)

    return (
        Route("GET", "/openapi.json", openapi, "this API as an OpenAPI 3.1 document", token=True, loopback=True,
              answers={"openapi": "3.1.0", "info": {}, "paths": {}, "components": {}}),
        Route("GET", "/docs", page, "the same as a page", token=True, loopback=True, answers="text/html"),
    )  # fmt: skip


def document(table: Sequence[Route], concerns: Sequence[Concern]) -> dict[str, Any]:
    """The OpenAPI document of the routes in `table`."""
    schemas, references = _models(table)
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        paths.setdefault(route.shown_path, {})[route.method.lower()] = _operation(route, concerns, references)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Quilt", "version": package_version("quilt-fn"), "description": ABOUT},
        "tags": [
            *({"name": concern.name, "description": concern.says} for concern in concerns),
            {"name": "platform", "description": "The platform itself."},
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": SECURITY,
            "responses": {
                "Error": {
                    "description": "any failure; `error_code` names it",
                    "content": {JSON: {"schema": references[ErrorBody, "serialization"]}},
                }
            },
        },
    }


References = Mapping[tuple[type[BaseModel], Mode], dict[str, str]]


def _models(table: Sequence[Route]) -> tuple[dict[str, Any], References]:
    wanted: list[tuple[type[BaseModel], Mode]] = [(ErrorBody, "serialization")]
    for route in table:
        if isinstance(route.body, type):
            wanted.append((route.body, "validation"))
        if isinstance(route.answers, type):
            wanted.append((route.answers, "serialization"))
    references, whole = models_json_schema(list(dict.fromkeys(wanted)), ref_template=SCHEMAS + "{model}")
    return whole["$defs"], references  # type: ignore[return-value]


def _operation(route: Route, concerns: Sequence[Concern], references: References) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()} {route.shown_path}").strip("_"),
        "summary": route.says,
        "tags": [_tag(route, concerns)],
        "security": _security(route),
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
                for name in re.findall(r"\{(\w+)\}", route.shown_path)
            ),
            *(_parameter("query", query) for query in route.query),
            *(_parameter("header", header) for header in route.headers),
            *([IDEMPOTENCY] if route.replays else []),
        ],
        "responses": {
            **{str(status): _success(route, references) for status in (route.status, *route.also)},
            **({"507": {"$ref": "#/components/responses/Error"}} if route.fills else {}),
            "default": {"$ref": "#/components/responses/Error"},
        },
    }
    if route.loopback:
        found["description"] = "Without a key where QUILT_PUBLIC_METRICS opens it to loopback."
    if isinstance(route.body, str):
        found["requestBody"] = {"required": True, "content": {route.body: {"schema": {}}}}
    elif route.body is not None:
        needed = any(field.is_required() for field in route.body.model_fields.values())
        schema = references[route.body, "validation"]
        found["requestBody"] = {"required": needed, "content": {JSON: {"schema": schema}}}
    return found


def _tag(route: Route, concerns: Sequence[Concern]) -> str:
    for concern in concerns:
        if route in concern.routes or route.path.rpartition("/")[0] == f"/api/{concern.name}":
            return concern.name
    return "platform"


def _security(route: Route) -> list[dict[str, list[str]]]:
    if route.public:
        return []
    ways = ("key", "bearer", "token") if route.token else ("key", "bearer")
    return [{way: []} for way in ways]


def _parameter(place: str, query: Query) -> dict[str, Any]:
    return {
        "name": query.name,
        "in": place,
        "required": query.required,
        "description": query.says,
        "schema": {"type": query.kind},
    }


def _success(route: Route, references: References) -> dict[str, Any]:
    found: dict[str, Any] = {"description": route.says}
    if isinstance(route.answers, str):
        found["content"] = {route.answers: {"schema": {}}}
    elif isinstance(route.answers, type):
        found["content"] = {JSON: {"schema": references[route.answers, "serialization"]}}
    elif route.answers is not None:
        schema = {
            "type": "object",
            "required": list(route.answers),
            "properties": {name: _shape(value) for name, value in route.answers.items()},
        }
        found["content"] = {JSON: {"schema": schema, "example": dict(route.answers)}}
    return found


def _shape(value: object) -> dict[str, str]:
    """What an example's value says of its kind. None says nothing: as a rule it may be null or something else."""
    kinds: list[tuple[type, str]] = [
        (bool, "boolean"), (str, "string"), (int, "number"), (float, "number"), (dict, "object"), (list, "array"),
    ]  # fmt: skip
    return next(({"type": name} for kind, name in kinds if isinstance(value, kind)), {})
