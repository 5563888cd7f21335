"""One container as this process holds it in memory, and the record that the API gives of it. Pure values and functions.

Not here: Redis (`registry`), and anything that is asked of a container (`service`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict

from quilt_fn.model.container import Checks, ContainerCreate, ContainerRecord
from quilt_fn.states import ContainerState
from runtime.containers.api import Attached, Command, ContainerSpec


class Kept(BaseModel):
    """What changes in a container's life, as it is kept in Redis."""

    model_config = ConfigDict(extra="ignore")

    spec: ContainerCreate
    exit_code: int | None = None
    exit_reason: str | None = None
    error_message: str | None = None
    address: str | None = None
    started_at: str | None = None
    exited_at: str | None = None
    restart_count: int = 0
    wanted: bool = True
    """Whether its user last asked for it to run: one that was stopped does not come back by itself."""
    expires_at: float | None = None
    """Epoch seconds."""


@dataclass(slots=True)
class ContainerEntry:
    """`lock` is held by whoever changes the container's state; everybody else waits for it or is told `busy`."""

    container_id: str
    tenant_id: str
    name: str
    state: ContainerState
    kept: Kept
    created_at: str
    updated_at: str
    attached: tuple[Attached, ...] = ()
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced by a new one, at each change: whoever waits for a state waits for this."""
    command_running: bool = False
    history: list[str] = field(default_factory=list)
    """The last states, for an illegal transition's message."""

    @property
    def spec(self) -> ContainerCreate:
        return self.kept.spec


def runtime_spec(entry: ContainerEntry) -> ContainerSpec:
    """What a start needs to know."""
    spec = entry.spec
    return ContainerSpec(
        tenant_id=entry.tenant_id, container_id=entry.container_id, hostname=entry.name, image=spec.image,
        memory_mb=spec.memory_limit_mb, cpu_percent=spec.cpu_limit_percent, pids=spec.pids_limit,
        network=spec.network, strict=spec.strict, attached=entry.attached,
    )  # fmt: skip


def main_command(entry: ContainerEntry) -> Command | None:
    """The container's own command, with its environment; None where it has none."""
    spec = entry.spec
    if spec.command is None:
        return None
    return Command(tuple(spec.command), spec.environment, spec.working_directory)


def record(entry: ContainerEntry, pid: int | None, checks: Checks, expires_at: str | None) -> ContainerRecord:
    """`pid` is that of its init on this machine, None where it does not run."""
    spec, kept = entry.spec, entry.kept
    fields: dict[str, Any] = spec.model_dump(exclude={"environment", "name", "command", "volumes"})
    return ContainerRecord(
        container_id=entry.container_id, tenant_id=entry.tenant_id, name=entry.name, state=entry.state,
        command=spec.command, volumes=spec.volumes, pid=pid, exit_code=kept.exit_code, exit_reason=kept.exit_reason,
        error_message=kept.error_message, ip_address=kept.address, created_at=entry.created_at,
        started_at=kept.started_at, exited_at=kept.exited_at, restart_count=kept.restart_count, expires_at=expires_at,
        exec_ready=checks.init_responsive, network_ready=bool(checks.network_configured), checks=checks, **fields,
    )  # fmt: skip
