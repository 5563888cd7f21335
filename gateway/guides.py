"""`GET /api/<concern>/help`: what a concern is, its routes with their fields, its states and its rules.

Made from the route table, the models and the state tables, so it cannot drift from them. Not here: the concerns
themselves (each in its own file), nor the reference page (`gateway.docs`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from pydantic import BaseModel

import quilt_fn.states
from gateway.context import Ask, Handler, answer
from gateway.errors import invalid_field
from gateway.route import Concern, Query, Route

MARKDOWN = "text/markdown"
FORMATS = ("json", "markdown")


def routes(concern: Concern) -> tuple[Route, ...]:
    """The guide's own routes of `concern`."""
    return (
        Route(
            "GET", f"/api/{concern.name}/help", _answering(concern),
            f"the guide of {concern.name}: routes, states, rules",
            query=(Query("format", "`json`, or `markdown`; by default what `Accept` asks for, else JSON"),),
            answers={"concern": concern.name, "says": concern.says, "routes": [], "states": {}, "rules": []},
        ),
    )  # fmt: skip


def guide(concern: Concern) -> dict[str, Any]:
    """The guide as JSON. Raises AttributeError where the concern names a table of states that there is not."""
    return {
        "concern": concern.name,
        "says": concern.says,
        "routes": [_route(route) for route in concern.routes],
        "states": {name: _table(name) for name in concern.states},
        "rules": list(concern.rules),
    }


def markdown(concern: Concern) -> str:
    """The same guide as a page."""
    found = guide(concern)
    lines = [f"# {concern.name}", "", concern.says, "", "## Routes"]
    for route in found["routes"]:
        lines += ["", f"### {route['method']} {route['path']}", "", f"{route['status']}: {route['says']}"]
        fields = [("query", field) for field in route["query"]]
        if isinstance(route["body"], list):
            fields += [("body", field) for field in route["body"]]
        elif route["body"]:
            lines += ["", f"Body: `{route['body']}`"]
        if fields:
            lines += ["", "| field | in | schema | needed | |", "|---|---|---|---|---|"]
        for place, field in fields:
            needed = "yes" if field["required"] else "no"
            schema = json.dumps(field["schema"], sort_keys=True).replace("|", "\\|")
            lines.append(f"| `{field['name']}` | {place} | `{schema}` | {needed} | {_cell(field['says'])} |")
    if found["states"]:
        lines += ["", "## States"]
    for name, table in found["states"].items():
        lines += ["", f"### {name.lower()}", ""]
        lines += [
            f"- `{state}` → {', '.join(f'`{to}`' for to in after) or 'the end'}" for state, after in table.items()
        ]
    if found["rules"]:
        lines += ["", "## Rules", "", *(f"- {rule}" for rule in found["rules"])]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _answering(concern: Concern) -> Handler:
    async def help_(ask: Ask) -> web.StreamResponse:
        by_header = "markdown" if MARKDOWN in ask.request.headers.get("Accept", "") else "json"
        wanted = ask.request.query.get("format", by_header)
        if wanted not in FORMATS:
            raise invalid_field("format", " or ".join(FORMATS), wanted)
        if wanted == "json":
            return answer(guide(concern))
        return web.Response(text=markdown(concern), content_type=MARKDOWN)

    return help_


def _route(route: Route) -> dict[str, Any]:
    return {
        "method": route.method,
        "path": re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.path),
        "says": route.says,
        "status": route.status,
        "token": route.token,
        "query": [
            {"name": query.name, "schema": {"type": query.kind}, "required": query.required, "says": query.says}
            for query in route.query
        ],
        "body": _body(route.body),
    }


def _body(body: type[BaseModel] | str | None) -> list[dict[str, Any]] | str | None:
    """The fields of a JSON body, or the media type of a raw one."""
    if body is None or isinstance(body, str):
        return body
    schema = body.model_json_schema()
    needed = schema.get("required", [])
    return [
        {
            "name": name,
            "schema": _inlined(about, schema.get("$defs", {})),
            "required": name in needed,
            "says": about.get("description", ""),
        }
        for name, about in schema.get("properties", {}).items()
    ]


def _inlined(schema: Any, models: Mapping[str, Any]) -> Any:
    """`schema` without titles, and with the models that it refers to in place; none of ours refers to itself."""
    if isinstance(schema, list):
        return [_inlined(one, models) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(models[schema["$ref"].rpartition("/")[2]], models)
    dropped = {key for key in ("title", "description") if isinstance(schema.get(key), str)}
    return {key: _inlined(value, models) for key, value in schema.items() if key not in dropped}


def _table(name: str) -> dict[str, list[str]]:
    table = getattr(quilt_fn.states, name)
    return {str(state): sorted(str(to) for to in after) for state, after in table.items()}
