"""`Client().containers`: machines, and what is done in them; each method waits, or is awaited as `.aio`.

    with client.containers.create("box") as box:          # deleted at the end of the block
        print(box.exec("uname", "-a").stdout)
        box.files.write("/tmp/a.py", b"print(6 * 7)")
        for frame in box.stream("python3", "/tmp/a.py"):
            ...

Not here: terminal sessions (`quilt_fn.terminals`), copying folders (`quilt cp`), and what a record's fields mean
(`quilt_fn.model`).
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from quilt_fn.twins import both, both_items

if TYPE_CHECKING:
    from typing import Self

    from quilt_fn.client import Client
    from quilt_fn.connection import Page
    from quilt_fn.container_files import ContainerFiles
    from quilt_fn.model.container import ContainerRecord, ExecResult, Readiness
    from quilt_fn.model.operation import OperationRecord
    from quilt_fn.terminals import Terminal

CREATE_TIMEOUT_S = 120.0
OPERATION_TIMEOUT_S = 120.0
SLACK_S = 30.0
"""On top of what a command may take, for the platform to say that its time is over."""


class Containers:
    """The containers of the client's tenant. Every method raises what `quilt_fn.client.Client` raises."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @both
    async def create(self, name: str, /, **spec: Any) -> Container:
        """A container that runs when this returns. `spec` are the other fields of model.container.ContainerCreate.

        Raises NameTaken, ImageNotFound, VolumeNotFound, QuotaExceeded, InvalidValue.
        """
        answer = await self._client._json(
            "POST", "/api/containers", {"name": name, **spec}, timeout_s=CREATE_TIMEOUT_S,
            headers={"Idempotency-Key": secrets.token_hex(16)},
        )  # fmt: skip
        return self._container(answer)

    @both
    async def create_many(self, specs: Sequence[Mapping[str, Any]]) -> OperationRecord:
        """As many at once; the operation at its end, however that was: `items` say what became of each. It has
        succeeded where at least one was created.
        """
        answer = await self._client._json(
            "POST", "/api/containers/batch", {"items": [dict(spec) for spec in specs]},
            headers={"Idempotency-Key": secrets.token_hex(16)},
        )  # fmt: skip
        timeout_s = OPERATION_TIMEOUT_S + 2 * len(specs)
        return await self._client.operations.wait.aio(answer["operation_id"], timeout_s)

    @both
    async def get(self, name: str) -> Container:
        """By name or by id (`ctr_…`). Raises ContainerNotFound."""
        path = _at(name) if name.startswith("ctr_") else f"/api/containers/by-name/{quote(name, safe='')}"
        return self._container(await self._client._json("GET", path, safe=True))

    @both
    async def list(
        self, limit: int = 100, cursor: str | None = None, *, state: str | None = None, label: str | None = None
    ) -> Page:
        """Records, newest first. `label`: `key` or `key=value`."""
        from quilt_fn.connection import paged
        from quilt_fn.model.container import ContainerRecord

        asked = {"limit": limit, "cursor": cursor, "state": state, "label": label}
        return await paged(self._client, "/api/containers", "containers", ContainerRecord, **asked)

    def _container(self, answer: Mapping[str, Any]) -> Container:
        from quilt_fn.model.container import ContainerRecord

        return Container(self._client, ContainerRecord.model_validate(answer))


class Container:
    """One container. `record` is what was last known of it: methods that change it bring a new one.

    A context manager, sync and async, that deletes it at the end.
    """

    def __init__(self, client: Client, record: ContainerRecord) -> None:
        self._client = client
        self.record = record

    def __repr__(self) -> str:
        return f"Container({self.record.name!r}, {self.record.state})"

    @property
    def id(self) -> str:
        return self.record.container_id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def files(self) -> ContainerFiles:
        """Single files in it."""
        from quilt_fn.container_files import ContainerFiles

        return ContainerFiles(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.delete()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.delete.aio()

    # --- commands -------------------------------------------------------------------------------------------------

    @both
    async def exec(
        self, *command: str, workdir: str | None = None, environment: Mapping[str, str] | None = None,
        stdin: str | bytes | None = None, user: str | None = None, timeout_s: float = 30.0,
    ) -> ExecResult:  # fmt: skip
        """Run a command to its end; a failing one is a result too, `exit_code` says so. Output up to 1 MiB each: as
        text in `stdout` and `stderr`, exactly in `stdout_bytes` and `stderr_bytes`.

        Raises ContainerNotRunning.
        """
        from quilt_fn.model.container import ExecResult

        asked = {"workdir": workdir, "environment": dict(environment or {}), "user": user}
        if isinstance(stdin, bytes):
            asked["stdin_data"] = base64.b64encode(stdin).decode()
        else:
            asked["stdin"] = stdin
        answer = await self._client._json(
            "POST", _at(self.id, "exec"),
            {"command": list(command), "timeout_ms": max(1, round(timeout_s * 1000)), **_given(asked)},
            timeout_s=timeout_s + SLACK_S,
        )  # fmt: skip
        return ExecResult.model_validate(answer)

    @both_items
    async def stream(
        self, *command: str, workdir: str | None = None, environment: Mapping[str, str] | None = None,
        stdin: bytes | None = None, user: str | None = None, timeout_s: float | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:  # fmt: skip
        """Run a command and get what it writes as it comes: frames with a `type` of started, stdout, stderr, timeout,
        exit or error; stdout and stderr carry `data` as bytes. Leaving the loop early ends the command.
        """
        asked = {
            "working_directory": workdir, "environment": dict(environment or {}), "user": user,
            "timeout_ms": None if timeout_s is None else max(1, round(timeout_s * 1000)),
            "stdin_data": None if stdin is None else base64.b64encode(stdin).decode(),
        }  # fmt: skip
        body = {"command": list(command), **_given(asked)}
        async for frame in self._client._lines("POST", _at(self.id, "stream"), value=body, quiet_timeout_s=None):
            if "data_b64" in frame:
                frame["data"] = base64.b64decode(frame.pop("data_b64"))
            yield frame

    @both
    async def terminal(
        self, *, cols: int = 80, rows: int = 24, shell: str | None = None, workdir: str | None = None,
        environment: Mapping[str, str] | None = None, user: str | None = None,
    ) -> Terminal:  # fmt: skip
        """A terminal session with a shell, by default bash where the container has it, else sh.

        Raises ContainerNotRunning; Conflict where the shell can't be started; QuotaExceeded.
        """
        from quilt_fn.terminals import opened

        asked = {"shell": shell, "working_directory": workdir, "environment": dict(environment or {}), "user": user}
        return await opened(self._client, {"container_id": self.id, "cols": cols, "rows": rows, **_given(asked)})

    # --- its life -------------------------------------------------------------------------------------------------

    @both
    async def refresh(self) -> Container:
        """Ask for the record again. Raises ContainerNotFound."""
        return self._became(await self._client._json("GET", _at(self.id), safe=True))

    @both
    async def ready(self) -> Readiness:
        """Whether commands and connections work now; `checks` say what is missing. Raises ContainerNotFound."""
        from quilt_fn.model.container import Readiness

        return Readiness.model_validate(await self._client._json("GET", _at(self.id, "ready"), safe=True))

    @both
    async def start(self) -> Container:
        """Returns when it runs. Raises what the start failed with."""
        return await self._operation("start")

    @both
    async def resume(self) -> Container:
        """Of a paused one."""
        return await self._operation("resume")

    @both
    async def stop(self, timeout_s: float = 10.0) -> Container:
        """SIGTERM to all of it, `timeout_s`, SIGKILL. What it wrote stays."""
        return self._became(
            await self._client._json(
                "POST", _at(self.id, "stop"), {"timeout_s": timeout_s}, timeout_s=timeout_s + SLACK_S
            )
        )

    @both
    async def kill(self) -> Container:
        """SIGKILL to all of it."""
        return self._became(await self._client._json("POST", _at(self.id, "kill")))

    @both
    async def pause(self) -> Container:
        """Nothing in it runs until `resume`."""
        return self._became(await self._client._json("POST", _at(self.id, "pause")))

    @both
    async def rename(self, new_name: str) -> Container:
        """Raises NameTaken."""
        return self._became(await self._client._json("POST", _at(self.id, "rename"), {"new_name": new_name}))

    @both
    async def resize(
        self, *, memory_limit_mb: int | None = None, cpu_limit_percent: int | None = None, pids_limit: int | None = None
    ) -> Container:
        """Other limits, in force at once."""
        limits = _given(
            {"memory_limit_mb": memory_limit_mb, "cpu_limit_percent": cpu_limit_percent, "pids_limit": pids_limit}
        )
        path = f"/api/elasticity/containers/{quote(self.id, safe='')}/resize"
        headers = {"X-Tenant-Id": self.record.tenant_id}
        return self._became(await self._client._json("POST", path, limits, headers=headers))

    @both
    async def delete(self) -> None:
        """Whatever state it is in; its writable layer goes too. Nothing happens where it is gone already."""
        from quilt_fn.errors import ContainerNotFound

        try:
            await self._client._json("DELETE", _at(self.id), timeout_s=CREATE_TIMEOUT_S)
        except ContainerNotFound:
            return

    @both
    async def wait(self, state: str = "exited", timeout_s: float = 30.0) -> Container:
        """Until it has that state, or the time is over: `record.state` says which."""
        query = {"state": state, "timeout_s": f"{timeout_s:g}"}
        path = _at(self.id, "wait")
        return self._became(await self._client._json("GET", path, query=query, timeout_s=timeout_s + SLACK_S))

    # --- looking at it --------------------------------------------------------------------------------------------

    @both
    async def metrics(self) -> dict[str, Any]:
        """What it uses now, beside its limits. Raises ContainerNotRunning."""
        return await self._client._json("GET", _at(self.id, "metrics"), safe=True)

    @both
    async def processes(self) -> Sequence[dict[str, Any]]:
        """By its own pids."""
        answer = await self._client._json("GET", _at(self.id, "processes"), safe=True)
        return list(answer["processes"])

    @both
    async def signal(self, pid: int, signal: str = "TERM") -> None:
        """To one of its processes. Raises NotFound."""
        await self._client._json("DELETE", _at(self.id, f"processes/{pid}"), query={"signal": signal})

    @both
    async def environment(self) -> dict[str, str]:
        """What new commands get."""
        return dict((await self._client._json("GET", _at(self.id, "env"), safe=True))["environment"])

    @both
    async def set_environment(self, values: Mapping[str, str | None], *, replace: bool = False) -> dict[str, str]:
        """Merge, None takes a name out; or replace all of it."""
        method = "PUT" if replace else "PATCH"
        answer = await self._client._json(method, _at(self.id, "env"), {"environment": dict(values)})
        return dict(answer["environment"])

    @both_items
    async def logs(self, *, follow: bool = False, limit: int | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """Lines {t, stream, text} of its own command. `follow`: until it has ended and does not come back by itself."""
        from quilt_fn.connection import _query

        query = _query(follow="true" if follow else None, limit=limit)
        async for line in self._client._lines("GET", _at(self.id, "logs"), query=query, quiet_timeout_s=None):
            yield line

    # --- how ------------------------------------------------------------------------------------------------------

    async def _operation(self, verb: str) -> Container:
        answer = await self._client._json(
            "POST", _at(self.id, verb), headers={"Idempotency-Key": secrets.token_hex(16)}, safe=True
        )
        done = await ended(self._client, answer["operation_id"], OPERATION_TIMEOUT_S)
        return self._became(done.result or {})

    def _became(self, answer: Mapping[str, Any]) -> Container:
        from quilt_fn.model.container import ContainerRecord

        self.record = ContainerRecord.model_validate(answer)
        return self


async def ended(client: Client, operation_id: str, timeout_s: float) -> OperationRecord:
    """The operation once it has succeeded. Raises what it failed with, and Unavailable when the time is over first."""
    from quilt_fn import errors
    from quilt_fn.states import OperationStatus

    found = await client.operations.wait.aio(operation_id, timeout_s)
    if found.status is OperationStatus.SUCCEEDED:
        return found
    text = found.error or f"{found.operation_type} has {found.status}"
    raise errors.from_body({"error_code": found.reason_code, "error": text})


def _at(container_id: str, rest: str = "") -> str:
    return f"/api/containers/{quote(container_id, safe='')}" + (f"/{rest}" if rest else "")


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
