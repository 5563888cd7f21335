"""What the API can do, the command line can: each route has a command. A new route fails here until it has one."""

from __future__ import annotations

import click
import pytest

from gateway.app import CONCERNS, ROUTES
from gateway.route import Route
from quilt_fn.cli.main import quilt

FOR_PROGRAMS = {
    "GET /metrics",  # Prometheus asks
    "GET /openapi.json", "GET /docs",  # a browser and generators of clients
    "GET /ws/terminal/attach", "GET /terminal/{session_id}", "GET /terminal/assets/{name}",  # the terminal's page
    "POST /api/terminal/sessions/{session_id}/resize",  # who shows a session; `shell` does it on its socket
    "HEAD /api/volumes/{name}/files/{path:(?s:.+)}",  # clients that fetch a file in parts ask first
}  # fmt: skip
COMMANDS = {
    "/health": "status",
    "/api/system/info": "status",
    "POST /api/keys": "keys create",
    "GET /api/keys": "keys list",
    "/api/keys/{key_id}": "keys delete",
    "/api/bundles": "deploy",
    "POST /api/functions": "deploy",
    "GET /api/functions": "functions list",
    "PUT /api/functions/{function_id}": "deploy",
    "GET /api/functions/{function_id}": "functions get",
    "DELETE /api/functions/{function_id}": "functions delete",
    "/api/functions/by-name/{name}": "functions get",
    "/api/functions/pool/stats": "pool",
    "/api/functions/invoke/{name}": "invoke",
    "/api/functions/{function_id}/deploy": "deploy",
    "/api/functions/{function_id}/pause": "functions pause",
    "/api/functions/{function_id}/resume": "functions resume",
    "/api/functions/{function_id}/invoke": "invoke",
    "/api/functions/{function_id}/invocations": "functions invocations",
    "/api/functions/{function_id}/invocations/{invocation_id}": "functions invocations",
    "/api/functions/{function_id}/logs": "logs",
    "/api/functions/{function_id}/pool": "pool",
    "/api/functions/{function_id}/template/drop": "functions drop-template",
    "POST /api/containers": "containers create",
    "GET /api/containers": "containers list",
    "/api/containers/batch": "containers batch",
    "/api/containers/by-name/{name}": "containers get",
    "GET /api/containers/{container_id}": "containers get",
    "DELETE /api/containers/{container_id}": "containers delete",
    "/api/containers/{container_id}/ready": "containers get",
    "/api/containers/{container_id}/wait": "containers wait",
    "/api/containers/{container_id}/logs": "containers logs",
    "/api/containers/{container_id}/start": "containers start",
    "/api/containers/{container_id}/stop": "containers stop",
    "/api/containers/{container_id}/kill": "containers kill",
    "/api/containers/{container_id}/pause": "containers pause",
    "/api/containers/{container_id}/resume": "containers resume",
    "/api/containers/{container_id}/rename": "containers rename",
    "/api/containers/{container_id}/metrics": "containers metrics",
    "GET /api/containers/{container_id}/processes": "containers processes",
    "DELETE /api/containers/{container_id}/processes/{pid}": "containers signal",
    "/api/containers/{container_id}/env": "containers env",
    "/api/containers/{container_id}/exec": "exec",
    "/api/containers/{container_id}/stream": "exec",
    "/api/containers/{container_id}/archive": "cp",
    "GET /api/containers/{container_id}/network": "network show",
    "PUT /api/containers/{container_id}/network": "network egress",
    "/api/containers/{container_id}/network/diagnostics": "network diagnose",
    "POST /api/containers/{container_id}/services": "services publish",
    "GET /api/containers/{container_id}/services": "services list",
    "DELETE /api/containers/{container_id}/services/{service_id}": "services delete",
    "/api/network/allocations": "network addresses",
    "/api/dns/entries": "network names",
    "POST /api/terminal/sessions": "terminals open",
    "GET /api/terminal/sessions": "terminals list",
    "GET /api/terminal/sessions/{session_id}": "terminals get",
    "DELETE /api/terminal/sessions/{session_id}": "terminals close",
    "GET /api/operations": "operations list",
    "GET /api/operations/{operation_id}": "operations get",
    "DELETE /api/operations/{operation_id}": "operations cancel",
    "/api/events": "events",
    "POST /api/volumes": "volumes create",
    "GET /api/volumes": "volumes list",
    "GET /api/volumes/{name}": "volumes get",
    "/api/volumes/{name}/inspect": "volumes get",
    "DELETE /api/volumes/{name}": "volumes delete",
    "/api/volumes/{name}/rename": "volumes rename",
    "/api/volumes/{name}/ls": "volumes ls",
    "POST /api/volumes/{name}/files": "cp",
    "/api/volumes/{name}/files/{path:(?s:.+)}": "cp",
    "DELETE /api/volumes/{name}/files/{path:(?s:.+)}": "volumes rm",
    "/api/volumes/{name}/archive": "cp",
    "GET /api/images": "images list",
    "/api/images/{name}/build": "images build",
    "DELETE /api/images/{name}": "images delete",
    "/api/elasticity/containers/{container_id}/resize": "containers resize",
    "/api/elasticity/functions/{function_id}/pool-target": "functions scale",
    "/api/elasticity/control/functions/{function_id}/pool-target": "functions scale",
}
"""By method and path, or by a path for all of its methods."""
GUIDES = {f"GET /api/{concern.name}/{about}" for concern in CONCERNS for about in ("help", "examples", "health")}


def command_of(route: Route) -> str | None:
    asked = f"{route.method} {route.path}"
    return "guide" if asked in GUIDES else COMMANDS.get(asked, COMMANDS.get(route.path))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_each_route_has_a_command(route: Route) -> None:
    asked = f"{route.method} {route.path}"
    if asked in FOR_PROGRAMS:
        return
    words = command_of(route)
    assert words, f"{asked} can't be reached from the command line"
    found: click.Command = quilt
    for word in words.split():
        assert isinstance(found, click.Group), words
        next_one = found.get_command(click.Context(found), word)
        assert next_one is not None, f"there is no `quilt {words}`"
        found = next_one
