"""The page at /docs: an OpenAPI document as plain HTML, without scripts and without anything from elsewhere.

Not here: what makes the document (`gateway.openapi`).
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Mapping
from typing import Any

STYLE = """\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c;background:#fff}
code,pre{font:14px/1.4 ui-monospace,monospace}pre{background:#f4f4f4;padding:.75rem;overflow:auto}
summary{cursor:pointer;padding:.25rem 0}summary code{font-weight:600}table{border-collapse:collapse;width:100%}
td,th{border-bottom:1px solid #ddd;text-align:left;padding:.25rem .5rem;vertical-align:top}
details{border-bottom:1px solid #eee}h2{margin-top:2rem}
@media(prefers-color-scheme:dark){body{color:#e6e6e6;background:#161616}pre{background:#242424}a{color:#8ab4f8}}
"""
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",  # the key may be in the address
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def page(document: Mapping[str, Any]) -> str:
    info = document["info"]
    by_tag: dict[str, list[str]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            by_tag[operation["tags"][0]].append("".join(_operation(method.upper(), path, operation)))
    says = {tag["name"]: tag["description"] for tag in document["tags"]}
    sections = "".join(
        f'<h2 id="{_text(tag)}">{_text(tag)}</h2><p>{_text(says[tag])}</p>{"".join(found)}'
        for tag, found in by_tag.items()
    )
    models = "".join(
        f'<details id="model-{_text(name)}"><summary><code>{_text(name)}</code></summary>{_json(schema)}</details>'
        for name, schema in sorted(document["components"]["schemas"].items())
    )
    links = " · ".join(f'<a href="#{_text(tag)}">{_text(tag)}</a>' for tag in (*by_tag, "models"))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_text(info['title'])} API</title><style>{STYLE}</style></head><body>"
        f"<h1>{_text(info['title'])} API {_text(info['version'])}</h1><p>{_text(info['description'])}</p>"
        f'<nav>{links}</nav>{sections}<h2 id="models">models</h2>{models}</body></html>'
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<details><summary><code>{method} {_text(path)}</code> {_text(operation['summary'])}</summary>"
    if "description" in operation:
        yield f"<p>{_text(operation['description'])}</p>"
    ways = [" and ".join(way) for way in operation["security"]]
    yield f"<p>Key: {_text(', or '.join(ways)) if ways else 'none'}.</p>"
    if operation["parameters"]:
        yield "<table><tr><th>name</th><th>in</th><th>type</th><th></th></tr>"
        for each in operation["parameters"]:
            needed = "needed. " if each.get("required") else ""
            cells = (f"<code>{_text(each['name'])}</code>", each["in"], each["schema"]["type"])
            yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells)
            yield f"<td>{_text(needed + each.get('description', ''))}</td></tr>"
        yield "</table>"
    if "requestBody" in operation:
        yield f"<p>Body: {_content(operation['requestBody'])}</p>"
    for status, response in operation["responses"].items():
        if status != "default":
            yield f"<p>{status}: {_content(response)}</p>"
    yield "</details>"


def _content(about: Mapping[str, Any]) -> str:
    shown = []
    for media, content in about.get("content", {}).items():
        schema = content["schema"]
        if "$ref" in schema:
            name = _text(schema["$ref"].rpartition("/")[2])
            shown.append(f'<a href="#model-{name}">{name}</a>')
        else:
            shown.append(f"<code>{_text(media)}</code>" + (_json(content["example"]) if "example" in content else ""))
    return ", ".join(shown) or "nothing"


def _json(value: object) -> str:
    return f"<pre>{_text(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"


def _text(value: str) -> str:
    return html.escape(value)
