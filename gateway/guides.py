"""`GET /api/<concern>/help`: what a concern is, its routes with their fields, its states and its rules; `/examples`;
`/health`: whether it can work now.

Made from the route table, the models and the state tables, so it cannot drift from them. Not here: the concerns
themselves (each in its own file), nor the pages of all routes (`gateway.docs`, `gateway.openapi`).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web
from pydantic import BaseModel

import quilt_fn.states
from gateway.context import Ask, Handler, answer
from gateway.errors import invalid_field
from gateway.route import Concern, Example, Query, Route

MARKDOWN = "text/markdown"
FORMATS = ("json", "markdown")

REFERENCES = (
    "The requests work in their order, on a platform that has none of their names. {{name}} stands for the field "
    "`name` of the newest answer before that has one. $QUILT_URL is the platform, $QUILT_API_KEY your key."
)

LISTEN_S = 3
"""How long an example of a stream listens."""


def routes(concern: Concern) -> tuple[Route, ...]:
    """The guide's own routes of `concern`."""
    base, name = f"/api/{concern.name}", concern.name
    formats = (Query("format", "`json`, or `markdown`; by default what `Accept` asks for, else JSON"),)
    return (
        Route(
            "GET", base + "/help", _answering(lambda: guide(concern), lambda: markdown(concern)),
            f"the guide of {name}: routes, states, rules", query=formats,
            answers={"concern": name, "says": concern.says, "routes": [], "states": {}, "rules": []},
        ),
        Route(
            "GET", base + "/examples", _answering(lambda: examples(concern), lambda: examples_page(concern)),
            f"requests of {name} that work as they stand, in their order", query=formats,
            answers={"concern": name, "references": REFERENCES, "examples": []},
        ),
        Route(
            "GET", base + "/health", _health(concern), f"whether {name} can work now, and if not why", query=formats,
            answers={"concern": name, "healthy": True, "reason": None},
        ),
    )  # fmt: skip


def examples(concern: Concern) -> dict[str, Any]:
    """The examples as JSON, each also as a curl command."""
    return {
        "concern": concern.name,
        "references": REFERENCES,
        "examples": [
            {
                "says": each.says,
                "method": each.method,
                "path": each.path,
                "headers": dict(each.headers),
                "body": each.body,
                "status": each.status,
                "lines": each.lines,
                "curl": curl(each),
            }
            for each in concern.examples
        ],
    }


def curl(example: Example) -> str:
    """The request as a command of a shell that has QUILT_URL and QUILT_API_KEY."""
    # `head` ends when it has its lines, but curl only when the next one comes, which may be long.
    words = [f"curl -sN --max-time {LISTEN_S}" if example.lines else "curl -sS"]
    if example.method != "GET":
        words.append(f"-X {example.method}")
    words += [f'"$QUILT_URL{example.path}"', '-H "X-Api-Key: $QUILT_API_KEY"']
    words += [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in example.headers.items()]
    if isinstance(example.body, str):
        words.append(f"--data-binary {shlex.quote(example.body)}")
    elif example.body is not None:
        words += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(json.dumps(example.body))}"]
    return " ".join(words) + (f" | head -n {example.lines}" if example.lines else "")


def examples_page(concern: Concern) -> str:
    """The examples as Markdown."""
    lines = [f"# Examples of {concern.name}", "", REFERENCES]
    for number, each in enumerate(concern.examples, 1):
        lines += ["", f"## {number}. {each.says}", "", f"    {each.method} {each.path}"]
        lines += [f"    {name}: {value}" for name, value in each.headers.items()]
        if isinstance(each.body, str):
            lines += ["", *(f"    {line}" for line in each.body.splitlines())]
        elif each.body is not None:
            lines += ["", *(f"    {line}" for line in json.dumps(each.body, indent=2).splitlines())]
        lines += ["", "```sh", curl(each), "```", "", f"Answers {each.status}."]
    return "\n".join(lines) + "\n"


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
        fields = [(place, field) for place in ("query", "headers") for field in route[place]]
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


def _answering(as_json: Callable[[], Any], as_page: Callable[[], str]) -> Handler:
    async def handle(ask: Ask) -> web.StreamResponse:
        if _wants_markdown(ask):
            return web.Response(text=as_page(), content_type=MARKDOWN)
        return answer(as_json())

    return handle


def _health(concern: Concern) -> Handler:
    async def handle(ask: Ask) -> web.StreamResponse:
        in_markdown = _wants_markdown(ask)
        reason = await concern.health(ask)
        if in_markdown:
            says = "can work now." if reason is None else f"can't work now: {reason}"
            return web.Response(text=f"# {concern.name}\n\n{concern.name} {says}\n", content_type=MARKDOWN)
        return answer({"concern": concern.name, "healthy": reason is None, "reason": reason})

    return handle


def _wants_markdown(ask: Ask) -> bool:
    by_header = "markdown" if MARKDOWN in ask.request.headers.get("Accept", "") else "json"
    wanted = ask.request.query.get("format", by_header)
    if wanted not in FORMATS:
        raise invalid_field("format", " or ".join(FORMATS), wanted)
    return wanted == "markdown"


def _route(route: Route) -> dict[str, Any]:
    return {
        "method": route.method,
        "path": route.shown_path,
        "says": route.says,
        "status": route.status,
        "token": route.token,
        "query": [_parameter(query) for query in route.query],
        "headers": [_parameter(header) for header in route.headers],
        "body": _body(route.body),
    }


def _parameter(query: Query) -> dict[str, Any]:
    return {"name": query.name, "schema": {"type": query.kind}, "required": query.required, "says": query.says}


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
