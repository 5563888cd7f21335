"""The platform's API as methods: `Client().get_function(…)` waits, `Client().get_function.aio(…)` is awaited.

Not here: how a request is sent, and sent again (`connection`), what a pickled call looks like (`remote`), packing and
deploying (`deploying`).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from quilt_fn import errors, remote
from quilt_fn.connection import CALL_TIMEOUT_S, Connection, Page, _id, _query, paged
from quilt_fn.twins import both, both_items

if TYPE_CHECKING:
    from quilt_fn.containers import Containers
    from quilt_fn.guides import Guides
    from quilt_fn.images import Images
    from quilt_fn.model.function import FunctionCreate, FunctionRecord, FunctionUpdate, PoolRecord
    from quilt_fn.model.invocation import InvocationRecord
    from quilt_fn.network import Network, Services
    from quilt_fn.operations import Event, Operations
    from quilt_fn.terminals import Terminals
    from quilt_fn.volumes import Volumes

BUILD_QUIET_S = 1800.0
"""How long a build may show no progress: resolving and installing large requirements does not."""


@dataclass(frozen=True, slots=True)
class DeployStep:
    """Progress of a build: stage is changes | upload | bundle | layer | boot | import | snapshot | after_restore."""

    stage: str
    text: str
    done: bool = False
    ms: float | None = None


class Client(Connection):
    """A platform, and the key for it.

    `url` is by default QUILT_URL, else http://QUILT_HOST:QUILT_PORT; `api_key` by default QUILT_API_KEY, else what the
    user's credentials file holds for the URL. Every method raises a QuiltError: the one that the gateway raised, or
    Unavailable where it can't be reached. Safe to use from several threads and event loops.

    A request over the key's rate was not carried out: it is sent again when the platform says, as long as that is
    within a minute for one request; then RateLimited is raised. `on_wait` is told of each wait, with its seconds.
    """

    @property
    def containers(self) -> Containers:
        from quilt_fn.containers import Containers

        return Containers(self)

    @property
    def guides(self) -> Guides:
        """What the platform tells of its API."""
        from quilt_fn.guides import Guides

        return Guides(self)

    @property
    def images(self) -> Images:
        from quilt_fn.images import Images

        return Images(self)

    @property
    def network(self) -> Network:
        """Addresses, names and egress of containers."""
        from quilt_fn.network import Network

        return Network(self)

    @property
    def services(self) -> Services:
        """Ports of containers that are published."""
        from quilt_fn.network import Services

        return Services(self)

    @property
    def terminals(self) -> Terminals:
        """Terminal sessions in containers."""
        from quilt_fn.terminals import Terminals

        return Terminals(self)

    @property
    def volumes(self) -> Volumes:
        from quilt_fn.volumes import Volumes

        return Volumes(self)

    @property
    def operations(self) -> Operations:
        from quilt_fn.operations import Operations

        return Operations(self)

    @both_items
    async def events(
        self,
        *,
        operation_id: str | None = None,
        container_id: str | None = None,
        function_id: str | None = None,
        after: int | None = None,
    ) -> AsyncGenerator[Event, None]:
        """What happens, as it happens, until closed: `ready` first, and each time that it had to connect again.

        With `after` from the event of that number; a `gap` says that some are not kept any more.
        """
        from quilt_fn.operations import follow

        given = {"operation_id": operation_id, "container_id": container_id, "function_id": function_id}
        found = follow(self, {name: value for name, value in given.items() if value is not None}, after)
        try:
            async for event in found:
                yield event
        finally:
            await found.aclose()

    @both
    async def close(self) -> None:
        """Close the connections. Idempotent; a later call opens new ones."""
        await self._transport.close()

    # --- functions ------------------------------------------------------------------------------------------------

    @both
    async def put_bundle(self, data: bytes) -> str:
        """Upload a tar.gz; its bundle_id. Raises BundleInvalid, PayloadTooLarge."""
        answer = await self._json(
            "POST", "/api/bundles", body=data, content_type="application/gzip", safe=True, timeout_s=600.0
        )
        return str(answer["bundle_id"])

    @both
    async def create_function(self, spec: FunctionCreate) -> dict[str, Any]:
        """{function_id, name, state, version}. Raises NameTaken, InvalidValue."""
        key = secrets.token_hex(16)  # makes it safe to send twice
        return await self._json(
            "POST", "/api/functions", spec.model_dump(mode="json"), headers={"Idempotency-Key": key}, safe=True
        )

    @both
    async def list_functions(self, limit: int = 100, cursor: str | None = None) -> Page:
        from quilt_fn.model.function import FunctionRecord

        return await paged(self, "/api/functions", "functions", FunctionRecord, limit=limit, cursor=cursor)

    @both
    async def get_function(self, function_id: str) -> FunctionRecord:
        """Raises FunctionNotFound."""
        return await self._function("GET", f"/api/functions/{_id(function_id)}", safe=True)

    @both
    async def function_by_name(self, name: str) -> FunctionRecord:
        """Raises FunctionNotFound."""
        return await self._function("GET", f"/api/functions/by-name/{_id(name)}", safe=True)

    @both
    async def update_function(self, function_id: str, changes: FunctionUpdate) -> FunctionRecord:
        """Make a new version of the fields that `changes` sets; `deploy` then makes it current."""
        return await self._function(
            "PUT", f"/api/functions/{_id(function_id)}", changes.model_dump(mode="json", exclude_unset=True)
        )

    @both
    async def delete_function(self, function_id: str) -> None:
        """Running invocations get their time limit, then all of it goes."""
        await self._nothing("DELETE", f"/api/functions/{_id(function_id)}")

    @both_items
    async def deploy_steps(self, function_id: str) -> AsyncGenerator[DeployStep | FunctionRecord, None]:
        """Build the newest version: its progress, and at the end the record. Raises BuildFailed, PythonMismatch."""
        from quilt_fn.model.function import FunctionRecord

        path = f"/api/functions/{_id(function_id)}/deploy"
        async for line in self._lines("POST", path, quiet_timeout_s=BUILD_QUIET_S):
            if line.get("event") == "progress":
                yield DeployStep(line["stage"], line.get("text", ""), bool(line.get("done")), line.get("ms"))
            elif line.get("event") == "done":
                yield FunctionRecord.model_validate(line["function"])
                return
            elif line.get("event") == "error":
                raise errors.from_body(line)
        raise errors.Unavailable(
            "the platform broke off in the middle of the deploy", hint="`quilt functions get` says how far it came"
        )

    @both
    async def deploy(self, function_id: str, on_step: Callable[[DeployStep], None] | None = None) -> FunctionRecord:
        """As `deploy_steps`, with each step told to `on_step` (on another thread); the record when it is active."""
        from quilt_fn.model.function import FunctionRecord

        async for step in self.deploy_steps.aio(function_id):
            if isinstance(step, FunctionRecord):
                return step
            if on_step is not None:
                on_step(step)
        raise AssertionError("deploy_steps ends with a record or raises")

    @both
    async def pause(self, function_id: str) -> FunctionRecord:
        """Drain, and scale to zero; the snapshot stays."""
        return await self._function("POST", f"/api/functions/{_id(function_id)}/pause", timeout_s=CALL_TIMEOUT_S)

    @both
    async def resume(self, function_id: str) -> FunctionRecord:
        return await self._function("POST", f"/api/functions/{_id(function_id)}/resume", timeout_s=CALL_TIMEOUT_S)

    # --- calling them ---------------------------------------------------------------------------------------------

    @both
    async def invoke(
        self,
        name: str,
        payload: Any = None,
        *,
        environment: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> InvocationRecord:
        """Call the function by name with JSON: the record of the invocation, also where it failed (`status` says).

        Raises FunctionNotFound, FunctionNotDeployed, QueueFull and what else keeps it from being run at all.
        """
        from quilt_fn.model.invocation import InvocationRecord

        # The route parses a text that is JSON. Quoted once more, a text arrives as the text that it is.
        body: dict[str, Any] = {"payload": json.dumps(payload) if isinstance(payload, str) else payload}
        if environment:
            body["environment"] = dict(environment)
        if timeout_s is not None:
            body["timeout_seconds"] = timeout_s
        answer = await self._json("POST", f"/api/functions/invoke/{_id(name)}", body, timeout_s=CALL_TIMEOUT_S)
        return InvocationRecord.model_validate(answer)

    @both
    async def call(
        self, name: str, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None, script: str | None = None
    ) -> Any:
        """Call the function with Python values, pickled; its Python value, or its own exception raised again.

        Needs a key of the tenant that owns the function. `script` is the module by which the function's code knows what
        is `__main__` here. Raises PythonMismatch where the function runs on another minor version of Python.
        """
        from quilt_fn.transport import Request

        request = Request(
            "POST",
            f"/fn/{quote(name, safe='@')}",
            headers={"Content-Type": remote.CALL, remote.PYTHON: remote.MINOR},
            body=remote.dumps_call(args, kwargs or {}, script),
            timeout_s=CALL_TIMEOUT_S,
        )
        async with self._send(request) as reply:
            body = await reply.read()
        return remote.loads_answer(reply.headers.get("Content-Type", ""), reply.headers, body, script)

    @both
    async def invocations(
        self, function_id: str, *, status: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        from quilt_fn.model.invocation import InvocationRecord

        path = f"/api/functions/{_id(function_id)}/invocations"
        asked = {"status": status, "limit": limit, "cursor": cursor}
        return await paged(self, path, "invocations", InvocationRecord, **asked)

    @both
    async def invocation(self, function_id: str, invocation_id: str) -> InvocationRecord:
        """Raises InvocationNotFound."""
        from quilt_fn.model.invocation import InvocationRecord

        path = f"/api/functions/{_id(function_id)}/invocations/{_id(invocation_id)}"
        return InvocationRecord.model_validate(await self._json("GET", path, safe=True))

    @both_items
    async def logs(
        self, function_id: str, *, follow: bool = False, invocation_id: str | None = None, limit: int | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Lines {t, stream, invocation_id, instance_id, text}, oldest first; with `follow` it goes on until closed."""
        query = _query(follow="true" if follow else None, invocation_id=invocation_id, limit=limit)
        path = f"/api/functions/{_id(function_id)}/logs"
        async for line in self._lines("GET", path, query=query, quiet_timeout_s=None if follow else 60.0):
            if "error_code" in line:
                raise errors.from_body(line)
            yield line

    # --- pools, keys, the platform --------------------------------------------------------------------------------

    @both
    async def pool(self, function_id: str) -> PoolRecord:
        from quilt_fn.model.function import PoolRecord

        return PoolRecord.model_validate(await self._json("GET", f"/api/functions/{_id(function_id)}/pool", safe=True))

    @both
    async def pool_stats(self) -> list[PoolRecord]:
        from quilt_fn.model.function import PoolRecord

        answer = await self._json("GET", "/api/functions/pool/stats", safe=True)
        return [PoolRecord.model_validate(record) for record in answer["pools"]]

    @both
    async def set_pool_target(self, function: FunctionRecord, min_instances: int, max_instances: int) -> PoolRecord:
        """How many instances are kept at least and at most, without a new version."""
        from quilt_fn.model.function import PoolRecord

        answer = await self._json(
            "POST",
            f"/api/elasticity/functions/{_id(function.id)}/pool-target",
            {"min_instances": min_instances, "max_instances": max_instances},
            headers={"X-Tenant-Id": function.tenant_id},
            safe=True,
        )
        return PoolRecord.model_validate(answer)

    @both
    async def drop_template(self, function_id: str, *, snapshot: bool = False) -> bool:
        """End the live template, so that the next start is a restore, with `snapshot` a boot; whether there was one."""
        query = _query(snapshot="true" if snapshot else None)
        answer = await self._json("POST", f"/api/functions/{_id(function_id)}/template/drop", query=query, safe=True)
        return bool(answer["dropped"])

    @both
    async def keys(self, limit: int = 100, cursor: str | None = None) -> Page:
        """The tenant's API keys: {key_id, name, created_at}. The keys themselves are not kept."""
        answer = await self._json("GET", "/api/keys", query=_query(limit=limit, cursor=cursor), safe=True)
        return Page(list(answer["keys"]), answer.get("next_cursor"))

    @both
    async def create_key(self, name: str = "") -> dict[str, Any]:
        """{key_id, name, key, created_at}: the only time that `key` is seen."""
        key = secrets.token_hex(16)
        return await self._json("POST", "/api/keys", {"name": name}, headers={"Idempotency-Key": key}, safe=True)

    @both
    async def delete_key(self, key_id: str) -> None:
        await self._nothing("DELETE", f"/api/keys/{_id(key_id)}")

    @both
    async def health(self) -> dict[str, Any]:
        """Needs no key. Raises Unavailable where nobody answers."""
        return await self._json("GET", "/health", timeout_s=5.0)

    @both
    async def system(self) -> dict[str, Any]:
        return await self._json("GET", "/api/system/info", safe=True)

    @both
    async def metrics(self) -> str:
        """Prometheus's text."""
        from quilt_fn.transport import Request

        async with self._send(Request("GET", "/metrics")) as reply:
            return (await reply.read()).decode()

    # --- shared ---------------------------------------------------------------------------------------------------

    async def _function(
        self, method: str, path: str, value: Mapping[str, Any] | None = None, **how: Any
    ) -> FunctionRecord:
        from quilt_fn.model.function import FunctionRecord

        return FunctionRecord.model_validate(await self._json(method, path, value, **how))
