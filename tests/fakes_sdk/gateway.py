"""A gateway in memory, on loopback, in a thread: functions, deploys, pickled calls, and failures on demand.

    with FakeGateway() as gateway:
        Client(gateway.url, KEY)
        gateway.fail_next(QueueFull("full"), times=2)    # the next two requests answer with that
        gateway.build_error = BuildFailed("boom")        # deploys fail until it is None
        gateway.requests                                 # (method, path) of every request

Not here: what the models check by themselves; bodies go through them.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from quilt_fn import remote
from quilt_fn.errors import (
    Forbidden,
    FunctionNotDeployed,
    FunctionNotFound,
    HandlerError,
    InvocationNotFound,
    NameTaken,
    NotFound,
    PythonMismatch,
    QuiltError,
    Unauthenticated,
    http_status,
)
from quilt_fn.model.function import FunctionCreate, FunctionRecord, FunctionUpdate

KEY = "quilt_sk_" + "0" * 32
ROOT = Path(__file__).parents[2]
GUEST = Path(__file__).with_name("guest.py")
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeGateway:
    def __init__(self) -> None:
        self.functions: dict[str, dict[str, Any]] = {}
        self.bundles: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.queries: list[dict[str, str]] = []
        """The queries of the routes whose query matters to a test."""
        self.unhealthy: str | None = None
        """Why the concern `volumes` can't work."""
        self.build_error: QuiltError | None = None
        self.invocation: dict[str, Any] = {}
        """What invoke answers, beside the defaults of a success."""
        self.events: list[Any] = []
        """The bodies of invoke."""
        self.log_lines: list[dict[str, Any]] = []
        self.override: Answer | None = None
        """Answers every request in place of the rest."""
        self.calls_at_once = 0
        self.most_calls_at_once = 0
        self.handler: Callable[[Any], Any] | None = None
        """Serves pickled calls here, in place of the guest's process: called with (args, kwargs)."""
        self.url = ""
        self._failures: list[QuiltError] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._folder = tempfile.TemporaryDirectory(prefix="quilt-fake-")

    def fail_next(self, error: QuiltError, times: int = 1) -> None:
        self._failures += [error] * times

    def __enter__(self) -> FakeGateway:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._folder.cleanup()

    async def _start(self) -> None:
        app = web.Application(middlewares=[self._guard], client_max_size=64 << 20)
        app.router.add_get("/health", self._health)
        app.router.add_get("/api/system/info", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/api/bundles", self._put_bundle)
        app.router.add_post("/api/functions", self._create)
        app.router.add_get("/api/functions", self._list)
        app.router.add_get("/api/functions/by-name/{name}", self._by_name)
        app.router.add_get("/api/functions/pool/stats", self._pool_stats)
        app.router.add_post("/api/functions/invoke/{name}", self._invoke)
        app.router.add_get("/api/functions/{id}", self._get)
        app.router.add_put("/api/functions/{id}", self._update)
        app.router.add_delete("/api/functions/{id}", self._delete)
        app.router.add_post("/api/functions/{id}/deploy", self._deploy)
        app.router.add_post("/api/functions/{id}/pause", self._get)
        app.router.add_post("/api/functions/{id}/resume", self._get)
        app.router.add_post("/api/functions/{id}/template/drop", self._drop)
        app.router.add_get("/api/functions/{id}/pool", self._pool)
        app.router.add_get("/api/functions/{id}/logs", self._logs)
        app.router.add_get("/api/functions/{id}/invocations", self._invocations)
        app.router.add_get("/api/functions/{id}/invocations/{inv}", self._invocation)
        app.router.add_post("/api/elasticity/functions/{id}/pool-target", self._pool)
        app.router.add_get("/api/keys", self._keys)
        app.router.add_post("/api/keys", self._create_key)
        app.router.add_delete("/api/keys/{id}", self._delete_key)
        app.router.add_get("/openapi.json", self._openapi)
        app.router.add_get("/api/volumes/{about:help|examples|health}", self._guide)
        app.router.add_post("/fn/{name}", self._call)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    @web.middleware
    async def _guard(self, request: web.Request, handler: Answer) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        try:
            self.bodies.append(await request.read())
            if self._failures:
                raise self._failures.pop(0)
            if self.override is not None:
                return await self.override(request)
            if request.path != "/health":
                if "X-Api-Key" not in request.headers:
                    raise Unauthenticated("an API key is needed")
                if request.headers["X-Api-Key"] != KEY:
                    raise Forbidden("this API key is not known here")
            return await handler(request)
        except QuiltError as error:
            return web.json_response(error_body(error), status=http_status(error))

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(text="quilt_up 1\n")

    async def _put_bundle(self, request: web.Request) -> web.Response:
        data = await request.read()
        bundle_id = hashlib.sha256(data).hexdigest()
        self.bundles[bundle_id] = data
        return web.json_response({"bundle_id": bundle_id, "size_bytes": len(data)}, status=201)

    async def _create(self, request: web.Request) -> web.Response:
        spec = FunctionCreate.model_validate(await request.json())
        if any(function["name"] == spec.name for function in self.functions.values()):
            raise NameTaken(f"there is a function {spec.name}")
        function_id = f"fn_{len(self.functions)}"
        now = "2026-01-01T00:00:00.000Z"
        self.functions[function_id] = spec.model_dump() | {
            "function_id": function_id, "id": function_id, "tenant_id": "default", "state": "pending", "version": 1,
            "current_version": None, "created_at": now, "updated_at": now, "url": f"{self.url}/fn/{spec.name}",
            "secret_values": spec.secrets,
        }  # fmt: skip
        return web.json_response(self._record(function_id), status=201)

    def _record(self, function_id: str) -> dict[str, Any]:
        function = self.functions.get(function_id)
        if function is None:
            raise FunctionNotFound(f"there is no function {function_id}")
        shown = {**function, "secrets": list(function["secrets"])}
        shown.pop("secret_values")
        return FunctionRecord.model_validate(shown).model_dump(mode="json")

    def _id_of(self, name: str) -> str:
        for function_id, function in self.functions.items():
            if function["name"] == name:
                return function_id
        raise FunctionNotFound(f"there is no function named {name}")

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(self._record(request.match_info["id"]))

    async def _by_name(self, request: web.Request) -> web.Response:
        return web.json_response(self._record(self._id_of(request.match_info["name"])))

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response({"functions": [self._record(key) for key in self.functions], "next_cursor": None})

    async def _update(self, request: web.Request) -> web.Response:
        function_id = request.match_info["id"]
        self._record(function_id)
        changes = FunctionUpdate.model_validate(await request.json())
        self.functions[function_id] |= changes.model_dump(exclude_unset=True)
        self.functions[function_id]["version"] += 1
        return web.json_response(self._record(function_id))

    async def _delete(self, request: web.Request) -> web.Response:
        self._record(request.match_info["id"])
        del self.functions[request.match_info["id"]]
        return web.Response(status=204)

    async def _deploy(self, request: web.Request) -> web.StreamResponse:
        function_id = request.match_info["id"]
        function = self.functions[function_id] if self._record(function_id) else {}
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)

        async def say(line: dict[str, Any]) -> None:
            await response.write(json.dumps(line).encode() + b"\n")

        error = self.build_error
        if error is None and function["python"] not in (None, MINOR):
            error = PythonMismatch(f"pickled by {function['python']}, the image has {MINOR}")
        for stage in ("bundle", "layer", "boot", "import", "snapshot"):
            await say({"event": "progress", "stage": stage, "text": f"the {stage}", "done": False, "ms": None})
            await say({"event": "progress", "stage": stage, "text": f"the {stage}", "done": True, "ms": 1.5})
        if error is not None:
            await say({"event": "error", **error_body(error)})
        else:
            function |= {"state": "active", "current_version": function["version"]}
            self._unpack(function_id)
            await say({"event": "done", "function": self._record(function_id)})
        return response

    def _unpack(self, function_id: str) -> None:
        target = Path(self._folder.name) / f"{function_id}.v{self.functions[function_id]['version']}"
        data = self.bundles[self.functions[function_id]["bundle_id"]]
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            archive.extraction_filter = lambda member, _path: member  # ours: the packer made it, or a test
            archive.extractall(target)
        self.functions[function_id]["folder"] = str(target)

    async def _call(self, request: web.Request) -> web.Response:
        function = self.functions[self._id_of(request.match_info["name"].split("@")[0])]
        if function["state"] != "active":
            raise FunctionNotDeployed(f"{function['name']} is not deployed")
        assert request.content_type == remote.CALL
        if request.headers.get(remote.PYTHON) != MINOR:
            raise PythonMismatch(f"pickled by {request.headers.get(remote.PYTHON)}, the image has {MINOR}")
        self.calls_at_once += 1
        self.most_calls_at_once = max(self.most_calls_at_once, self.calls_at_once)
        try:
            answer = await asyncio.to_thread(self._run, function, await request.read())
        finally:
            self.calls_at_once -= 1
        if answer[:1] == b"R":
            return web.Response(body=answer[1:], content_type=remote.RESULT)
        about, _, pickled = answer[1:].partition(b"\n")
        details = json.loads(about)
        error = HandlerError(f"{details['type']}: {details['message']}", details=details)
        headers = {
            "X-Quilt-Error-Code": error.error_code,
            "X-Quilt-Error": base64.b64encode(json.dumps(error_body(error)).encode()).decode(),
        }
        return web.Response(body=pickled, status=500, content_type=remote.EXCEPTION, headers=headers)

    def _run(self, function: dict[str, Any], body: bytes) -> bytes:
        if self.handler is not None:
            import cloudpickle

            return b"R" + bytes(cloudpickle.dumps(self.handler(cloudpickle.loads(body))))
        done = subprocess.run(
            [sys.executable, str(GUEST), function["folder"], function["handler"]],
            input=body,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), **function["secret_values"]},
            check=True,
        )
        return done.stdout

    async def _invoke(self, request: web.Request) -> web.Response:
        function_id = self._id_of(request.match_info["name"])
        self.events.append(await request.json())
        record = {
            "invocation_id": "inv_1", "function_id": function_id, "function_name": request.match_info["name"],
            "version": 1, "status": "success", "started_at": time.time(), "result": {"ok": True}, "start": "fork",
        }  # fmt: skip
        return web.json_response(record | self.invocation)

    def _invocation_of(self, function_id: str) -> dict[str, Any]:
        return {"invocation_id": "inv_1", "function_id": function_id, "function_name": "f", "version": 1,
                "status": "success", "started_at": 0.0, "duration_ms": 1234.5, "start": "fork"}  # fmt: skip

    async def _invocation(self, request: web.Request) -> web.Response:
        if request.match_info["inv"] != "inv_1":
            raise InvocationNotFound(f"no invocation {request.match_info['inv']}")
        return web.json_response(self._invocation_of(request.match_info["id"]))

    async def _invocations(self, request: web.Request) -> web.Response:
        all_of_it = [self._invocation_of(request.match_info["id"])]
        wanted = request.query.get("status")
        found = [record for record in all_of_it if wanted in (None, record["status"])]
        return web.json_response({"invocations": found, "next_cursor": None})

    async def _logs(self, request: web.Request) -> web.Response:
        wanted = request.query.get("invocation_id")
        lines = [line for line in self.log_lines if wanted in (None, line["invocation_id"])]
        return web.Response(body=b"".join(json.dumps(line).encode() + b"\n" for line in lines))

    def _pool_of(self, function_id: str) -> dict[str, Any]:
        instance = {"instance_id": "ins_1", "version": 1, "state": "ready", "start": "fork", "started_at": time.time(),
                    "invocations": 3}  # fmt: skip
        return {"function_id": function_id, "warming_count": 0, "ready_count": 1, "busy_count": 0, "recycling_count": 0,
                "terminating_count": 0, "total_count": 1, "queued_count": 0, "instances": [instance]}  # fmt: skip

    async def _pool(self, request: web.Request) -> web.Response:
        return web.json_response(self._pool_of(request.match_info["id"]))

    async def _pool_stats(self, _request: web.Request) -> web.Response:
        return web.json_response({"pools": [self._pool_of(function_id) for function_id in self.functions]})

    async def _drop(self, request: web.Request) -> web.Response:
        self.queries.append(dict(request.query))
        return web.json_response({"dropped": True})

    async def _openapi(self, _request: web.Request) -> web.Response:
        tags = [{"name": "volumes", "description": "Folders that stay."}, {"name": "platform", "description": "It."}]
        return web.json_response({"tags": tags, "paths": {"/api/volumes/help": {}, "/health": {}}})

    async def _guide(self, request: web.Request) -> web.Response:
        if "format" in request.query:
            return web.Response(text="# volumes\n", content_type="text/markdown")
        told = {"concern": "volumes", "healthy": self.unhealthy is None, "reason": self.unhealthy}
        return web.json_response({**told, "about": request.match_info["about"]})

    async def _keys(self, _request: web.Request) -> web.Response:
        key = {"key_id": "key_1", "name": "first", "created_at": "2026-01-01T00:00:00.000Z"}
        return web.json_response({"keys": [key], "next_cursor": None})

    async def _create_key(self, request: web.Request) -> web.Response:
        name = (await request.json())["name"]
        made = {"key_id": "key_2", "name": name, "key": KEY, "created_at": "2026-01-01T00:00:00.000Z"}
        return web.json_response(made, status=201)

    async def _delete_key(self, request: web.Request) -> web.Response:
        if request.match_info["id"] != "key_1":
            raise NotFound("no such key")
        return web.Response(status=204)


def error_body(error: QuiltError) -> dict[str, Any]:
    return {
        "error": error.message, "error_code": error.error_code, "request_id": "req_1", "details": error.details,
        "retry_after": error.retry_after, "hint": error.hint,
    }  # fmt: skip
