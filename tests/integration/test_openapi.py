"""The OpenAPI document held against a running platform by schemathesis: what is answered is what the document says, and
nothing that is sent makes a 500.

Seeded and bounded. Takes root. Not here: whether the document is valid and whole (tests/unit/test_gateway_openapi.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gateway.app import ROUTES
from gateway.route import Route
from tests.integration.live import Live, wait_for
from tests.slowness import patience

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="real sandboxes need root"),
    pytest.mark.timeout(120),
]
EXCLUDED = {
    "/ws/terminal/attach": "a websocket: OpenAPI has no words for its frames",
    "/api/events": "a stream that does not end",
    "/api/images/{name}/build": "a name that happens to be right begins a build of minutes",
    "/api/containers/batch": "makes up to 200 containers with one request",
}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES_EACH = 4
ON_REAL_THINGS = ("/exec", "/stream", "/env", "/files", "/files/{path}", "/archive", "/services", "/network", "/invoke")
"""Ends of paths that, beside every GET, are also asked about things that are there: they neither end nor grow them."""


@schemathesis.serializer("application/gzip", "application/x-tar", "application/octet-stream")
def raw(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@pytest.fixture(scope="module")
def schema(live: Live) -> schemathesis.schemas.BaseSchema:
    return schemathesis.openapi.from_dict(live.ok("GET", "/openapi.json"))


@pytest.fixture(scope="module")
def things(live: Live) -> Iterator[dict[str, str]]:
    """Path parameters of things that are there. In the end nothing is left of them, nor of what the test made."""
    keys = {key["key_id"] for key in live.ok("GET", "/api/keys")["keys"]}
    container = live.ok("POST", "/api/containers", {"name": "held"})["container_id"]
    live.ok("POST", "/api/volumes", {"name": "held"})
    live.ok("POST", "/api/volumes/held/files", {"path": "note", "content": "aGVsbG8="})
    function = live.id(live.deploy("def handler(event): return event", "held"))
    yield {"container_id": container, "function_id": function, "name": "held", "path": "note"}
    for found in live.ok("GET", "/api/containers?limit=1000")["containers"]:
        live.ok("DELETE", f"/api/containers/{found['container_id']}")
    for found in live.ok("GET", "/api/volumes?limit=1000")["volumes"]:
        operation = live.ok("DELETE", f"/api/volumes/{found['name']}")["operation_id"]
        live.ok("GET", f"/api/operations/{operation}?wait_s=30")
    for found in live.ok("GET", "/api/keys")["keys"]:
        if found["key_id"] not in keys:
            live.ok("DELETE", f"/api/keys/{found['key_id']}")
    wait_for(lambda: not live.ok("GET", "/api/containers")["containers"], "the containers to go")


def test_what_is_excluded_is_there() -> None:
    assert set(EXCLUDED) <= {route.shown_path for route in ROUTES}


@pytest.mark.parametrize(
    "route",
    [route for route in ROUTES if route.shown_path not in EXCLUDED],
    ids=lambda route: f"{route.method} {route.shown_path}",
)
def test_a_route_does_as_the_document_says(
    live: Live, schema: schemathesis.schemas.BaseSchema, things: dict[str, str], route: Route
) -> None:
    waits = {query.name for query in route.query}

    @seed(1)
    @settings(
        max_examples=EXAMPLES_EACH, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=schema[route.shown_path][route.method].as_strategy())
    def holds(case: schemathesis.Case, is_real: bool) -> None:
        if is_real:
            case.path_parameters |= {name: things[name] for name in case.path_parameters if name in things}
        for name, value in (("follow", "false"), ("wait_s", 1), ("timeout_s", 1)):
            if name in waits:
                case.query[name] = value  # it would wait for long
        response = case.call(
            base_url=f"http://127.0.0.1:{live.port}", headers={"X-Api-Key": live.key}, timeout=patience(40)
        )
        case.validate_response(response, checks=CHECKS)

    holds(is_real=False)
    if route.method == "GET" or (route.method != "DELETE" and route.shown_path.endswith(ON_REAL_THINGS)):
        holds(is_real=True)
