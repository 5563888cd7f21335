"""Commands in containers that run: whose container it is, what a command is given, and the runtime that runs it.

Not here: terminals (`pool.terminals`), the containers themselves. `Places` is what this needs of those.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from pool.quotas import AtOnce
from quilt_fn.errors import ContainerNotRunning, InvalidValue
from quilt_fn.model.container import ExecRequest, ExecResult, StreamRequest
from quilt_fn.output_bytes import LIMIT_BYTES, in_json
from runtime.containers.api import Command, InitLink, LiveContainer
from runtime.containers.exec import run_to_end
from runtime.containers.pipes import Leftovers
from runtime.containers.stream import frames

RUNNING_MAX = 500
"""Of a tenant, on one node: for each the node holds up to 2 MiB of output, and three descriptors."""


class Places(Protocol):
    """Where commands run. Both raise ContainerNotFound, also for another tenant's; `running` ContainerNotRunning."""

    def running(self, tenant_id: str, container_id: str) -> LiveContainer: ...

    def environment(self, tenant_id: str, container_id: str) -> Mapping[str, str]:
        """The container's own, which a command gets beside what was asked for it."""
        ...

    def working_directory(self, tenant_id: str, container_id: str) -> str: ...


def link_of(live: LiveContainer) -> InitLink:
    """Raises ContainerNotRunning."""
    link = live.link
    if link is None:
        raise ContainerNotRunning(
            "the container's init is not connected at this moment", details={"state": "running"}, retry_after=1
        )
    return link


class Commands:
    """`exec` and `stream`. Made on a running loop; `close` lets go of what background children still write to."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._leftovers = Leftovers()
        self._running = AtOnce(
            "commands", RUNNING_MAX, "commands run",
            "wait for some to end, or start long ones in the background of one command",
        )  # fmt: skip

    def _command(
        self, tenant_id: str, container_id: str, argv: list[str], environment: Mapping[str, str], folder: str | None,
        user: str | None,
    ) -> Command:  # fmt: skip
        return Command(
            tuple(argv),
            {**self._places.environment(tenant_id, container_id), **environment},
            folder or self._places.working_directory(tenant_id, container_id),
            user,
        )

    async def exec(self, tenant_id: str, container_id: str, body: ExecRequest) -> ExecResult:
        """Run to the end. Whatever the command did is an answer. Raises ContainerNotFound, ContainerNotRunning (also
        where the container ended meanwhile), InvalidValue (a command too long), QuotaExceeded.
        """
        if body.stdin is not None and body.stdin_data is not None:
            raise InvalidValue("give stdin (text) or stdin_data (base64), not both")
        stdin = _decoded(body.stdin_data) if body.stdin is None else body.stdin.encode()
        live = self._places.running(tenant_id, container_id)
        command = self._command(tenant_id, container_id, body.command, body.environment, body.workdir, body.user)
        with self._running.one_more(tenant_id):
            done = await run_to_end(
                link_of(live),
                live.memory,
                command,
                stdin=stdin,
                timeout_s=body.timeout_ms / 1000,
                limit_bytes=LIMIT_BYTES,
                leftovers=self._leftovers,
            )
        stdout, stdout_b64 = in_json(done.stdout)
        stderr, stderr_b64 = in_json(done.stderr)
        return ExecResult(
            container_id=container_id,
            exit_code=done.exit_code,
            exit_reason=done.exit_reason,
            stdout=stdout,
            stderr=stderr,
            stdout_b64=stdout_b64,
            stderr_b64=stderr_b64,
            execution_time_ms=round(done.execution_time_ms, 3),
            timed_out=done.timed_out,
            truncated=done.truncated,
        )

    def stream(
        self, tenant_id: str, container_id: str, body: StreamRequest, stdin: AsyncIterator[bytes] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Frames as they come; see `runtime.containers.stream`. `stdin` follows `body.stdin_data`. Closing the iterator
        ends the command. Raises as `exec` does, before the first frame.
        """
        first = _decoded(body.stdin_data)
        live = self._places.running(tenant_id, container_id)
        folder = body.working_directory
        pieces = frames(
            link_of(live),
            live.memory,
            container_id,
            self._command(tenant_id, container_id, body.command, body.environment, folder, body.user),
            stdin=_after(first, stdin),
            timeout_s=None if body.timeout_ms is None else body.timeout_ms / 1000,
            leftovers=self._leftovers,
        )
        return self._running.around(tenant_id, pieces)

    def close(self) -> None:
        self._leftovers.close()


def _decoded(stdin_data: str | None) -> bytes:
    try:
        return base64.b64decode(stdin_data or "", validate=True)
    except ValueError:  # not base64, or not even ASCII
        raise InvalidValue(
            "stdin_data must be base64", details={"fields": [{"field": "stdin_data", "expected": "base64"}]}
        ) from None


async def _after(first: bytes, rest: AsyncIterator[bytes] | None) -> AsyncIterator[bytes]:
    if first:
        yield first
    if rest is not None:
        async for piece in rest:
            yield piece
