"""The examples of the guides: for each concern, requests that work in their order; a test runs each as it is printed.

They name what they make `example-…`, and delete it in the end. Not here: how they are shown (`gateway.guides`).
"""

from __future__ import annotations

from typing import Any

from gateway.route import Example

CONTAINER = "/api/containers/{{container_id}}"
VOLUME = "/api/volumes/example-volume"
FUNCTION = "/api/functions/{{function_id}}"
TENANT = {"X-Tenant-Id": "{{tenant_id}}"}
SOURCE = "def handler(event):\n    return {'hello': event.get('name', 'world')}\n"


def _container(name: str, **more: Any) -> Example:
    return Example("POST", "/api/containers", "create and start one", {"name": name, **more}, status=201)


def _function(name: str) -> Example:
    spec = {"name": name, "handler": "main:handler", "source": SOURCE, "memory_limit_mb": 128}
    return Example("POST", "/api/functions", "create from one file's text", spec, status=201)


DELETE_CONTAINER = Example("DELETE", CONTAINER, "delete it")
DELETE_FUNCTION = Example("DELETE", FUNCTION, "delete it", status=204)
OPERATION_ENDS = Example("GET", "/api/operations/{{operation_id}}?wait_s=60", "wait for the operation to end")

FUNCTIONS = (
    _function("example-function"),
    Example("POST", FUNCTION + "/deploy", "build it and make it current"),
    Example("POST", "/fn/example-function", "call it", {"name": "Ada"}),
    Example("POST", "/api/functions/invoke/example-function", "call it, with a record", {"payload": {"name": "Ada"}}),
    Example("POST", FUNCTION + "/invoke", "the same by id", {"payload": {}, "timeout_seconds": 5}),
    Example("GET", FUNCTION + "/invocations/{{invocation_id}}", "the record of that invocation"),
    Example("GET", FUNCTION + "/invocations?status=success&limit=10", "the last ones that went well"),
    Example("GET", FUNCTION + "/logs?limit=20", "what they wrote"),
    Example("GET", FUNCTION + "/pool", "its instances"),
    Example("GET", "/api/functions/pool/stats", "all pools"),
    Example("PUT", FUNCTION, "change it: a new version", {"description": "says hello"}),
    Example("GET", FUNCTION, "its record"),
    Example("GET", "/api/functions/by-name/example-function", "its record, by name"),
    Example("GET", "/api/functions?limit=10", "your functions"),
    Example("POST", FUNCTION + "/pause", "end its instances"),
    Example("POST", FUNCTION + "/template/drop", "forget its live template"),
    Example("POST", FUNCTION + "/resume", "serve again"),
    DELETE_FUNCTION,
)

CONTAINERS = (
    _container("example-container", environment={"GREETING": "hello"}, labels={"for": "examples"}),
    Example("GET", CONTAINER, "its record, evaluated now"),
    Example("GET", "/api/containers?state=running&label=for=examples", "those that run, with this label"),
    Example("GET", "/api/containers/by-name/example-container", "its record, by name"),
    Example("GET", CONTAINER + "/ready", "whether it can work, and what is missing"),
    Example("POST", CONTAINER + "/exec", "run a command to its end",
            {"command": ["sh", "-c", "echo $GREETING; cat"], "stdin": "and goodbye", "timeout_ms": 5000}),
    Example("POST", CONTAINER + "/stream", "run a command, its output as it comes",
            {"command": ["sh", "-c", "echo one; echo two >&2"]}),
    Example("GET", CONTAINER + "/env", "the environment of new commands"),
    Example("PATCH", CONTAINER + "/env", "set one name, take another out",
            {"environment": {"COLOUR": "green", "GREETING": None}}),
    Example("PUT", CONTAINER + "/env", "set all of it", {"environment": {"ONLY": "this"}}),
    Example("GET", CONTAINER + "/metrics", "what it uses"),
    Example("GET", CONTAINER + "/processes", "what runs in it"),
    Example("GET", CONTAINER + "/archive?path=/etc/hostname", "a file of it, as a tar"),
    Example("POST", CONTAINER + "/pause", "freeze it"),
    Example("POST", CONTAINER + "/resume", "go on", status=202),
    OPERATION_ENDS,
    Example("POST", CONTAINER + "/rename", "another name", {"new_name": "example-renamed"}),
    Example("POST", CONTAINER + "/stop", "SIGTERM, and SIGKILL two seconds later", {"timeout_s": 2}),
    Example("GET", CONTAINER + "/wait?state=exited&timeout_s=10", "wait until it has ended"),
    Example("POST", CONTAINER + "/start", "start it again", status=202),
    OPERATION_ENDS,
    Example("POST", CONTAINER + "/kill", "SIGKILL to all of it"),
    DELETE_CONTAINER,
    _container("example-counter", command=["sh", "-c", "echo 1; echo 2"], ttl_seconds=600),
    Example("GET", CONTAINER + "/wait?state=exited&timeout_s=10", "wait for its command's end"),
    Example("GET", CONTAINER + "/logs?limit=10", "what its command wrote"),
    DELETE_CONTAINER,
    Example("POST", "/api/containers/batch", "create several", {"items": [{"name": "example-batch"}]}, status=202),
    OPERATION_ENDS,
    Example("GET", "/api/containers/by-name/example-batch", "one of them"),
    DELETE_CONTAINER,
)  # fmt: skip

TERMINAL = (
    _container("example-terminal"),
    Example("POST", "/api/terminal/sessions", "a shell in it; attach to `attach_url`, or open `page_url` in a browser",
            {"container_id": "{{container_id}}", "cols": 100, "rows": 30}, status=201),
    Example("GET", "/api/terminal/sessions", "your sessions"),
    Example("GET", "/api/terminal/sessions/{{session_id}}", "one of them"),
    Example("POST", "/api/terminal/sessions/{{session_id}}/resize", "another size", {"cols": 120, "rows": 40}),
    Example("GET", "/terminal/{{session_id}}", "its page"),
    Example("DELETE", "/api/terminal/sessions/{{session_id}}", "end it"),
    DELETE_CONTAINER,
)  # fmt: skip

OPERATIONS = (
    _container("example-operation"),
    Example("POST", CONTAINER + "/stop", "stop it", {"timeout_s": 0}),
    Example("POST", CONTAINER + "/start", "begin a start: the answer names the operation", status=202,
            headers={"Idempotency-Key": "example-{{container_id}}"}),
    Example("POST", CONTAINER + "/start", "the same key: the same answer, and nothing is begun", status=202,
            headers={"Idempotency-Key": "example-{{container_id}}"}),
    OPERATION_ENDS,
    Example("GET", "/api/operations?status=succeeded&limit=10", "the last ones that went well"),
    DELETE_CONTAINER,
)  # fmt: skip

EVENTS = (
    _container("example-events"),
    Example("GET", "/api/events", "listen; `ready` comes first", lines=2),
    Example("GET", "/api/events?container_id={{container_id}}&last_event_id=0",
            "what is kept of one container, and what comes", lines=2),
    DELETE_CONTAINER,
)  # fmt: skip

VOLUMES = (
    Example("POST", "/api/volumes", "create one",
            {"name": "example-volume", "labels": {"for": "examples"}, "size_limit_mb": 64}, status=201),
    Example("GET", "/api/volumes?label=for=examples", "those with this label"),
    Example("GET", VOLUME, "its record"),
    Example("POST", VOLUME + "/files", "write a small file", {"path": "notes/hello.txt", "content": "aGVsbG8="},
            status=201),
    Example("PUT", VOLUME + "/files/notes/more.txt?mode=600", "write a file of any size", "as it comes\n",
            headers={"Content-Type": "application/octet-stream"}, status=201),
    Example("GET", VOLUME + "/files/notes/hello.txt", "read it"),
    Example("GET", VOLUME + "/files/notes/hello.txt", "a part of it", headers={"Range": "bytes=0-3"}, status=206),
    Example("GET", VOLUME + "/ls?path=notes", "what is in a folder"),
    Example("GET", VOLUME + "/archive?path=notes&format=tar.gz", "a folder as an archive"),
    Example("GET", VOLUME + "/inspect", "how much it holds"),
    Example("DELETE", VOLUME + "/files/notes?recursive=true", "delete a folder with all that is in it", status=204),
    Example("POST", VOLUME + "/rename", "another name", {"new_name": "example-other"}),
    Example("DELETE", "/api/volumes/example-other", "delete it", status=202),
    OPERATION_ENDS,
)  # fmt: skip

IMAGES = (Example("GET", "/api/images", "which there are, and whether they are built"),)

NETWORK = (
    _container("example-network"),
    Example("GET", CONTAINER + "/network", "its address and names"),
    Example("PUT", CONTAINER + "/network", "cut it off from all but your containers", {"egress": False}),
    Example("GET", CONTAINER + "/network/diagnostics", "check it now"),
    Example("POST", CONTAINER + "/services", "publish its port 8000 at `path`",
            {"name": "web", "target_port": 8000, "auth_mode": "token"}, status=201),
    Example("GET", CONTAINER + "/services", "its services"),
    Example("DELETE", CONTAINER + "/services/{{service_id}}", "take it back", status=204),
    Example("GET", "/api/network/allocations", "your addresses"),
    Example("GET", "/api/dns/entries", "the names that your containers find"),
    DELETE_CONTAINER,
)  # fmt: skip

ELASTICITY = (
    _container("example-elastic"),
    Example("POST", "/api/elasticity/containers/{{container_id}}/resize", "other limits, at once",
            {"memory_limit_mb": 256, "cpu_limit_percent": 50}, headers=TENANT),
    DELETE_CONTAINER,
    _function("example-elastic"),
    Example("POST", FUNCTION + "/deploy", "build it and make it current"),
    Example("POST", "/api/elasticity/functions/{{function_id}}/pool-target", "keep one instance warm",
            {"min_instances": 1, "max_instances": 2}, headers=TENANT),
    Example("POST", "/api/elasticity/control/functions/{{function_id}}/pool-target", "as an operation",
            {"min_instances": 0, "max_instances": 2}, headers=TENANT, status=202),
    OPERATION_ENDS,
    DELETE_FUNCTION,
)  # fmt: skip
