"""Containers as the API takes and gives them: create, record, exec.

Not here: terminals, volumes and networks, which have files of their own; who keeps and runs them (`pool.containers`,
`runtime.containers`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator

from quilt_fn.model import patterns
from quilt_fn.model.common import Attachment, Labels, Model, Record
from quilt_fn.model.function import Environment, Name, _environment_size
from quilt_fn.output_bytes import from_json
from quilt_fn.states import ContainerState

Argument = Annotated[str, StringConstraints(max_length=131_072, pattern=patterns.WITHOUT_NUL)]
Command = Annotated[list[Argument], Field(min_length=1, max_length=4096)]
"""An argument vector; never a string, which somebody would have to split."""
AbsolutePath = Annotated[str, StringConstraints(pattern=patterns.ABSOLUTE_PATH, max_length=4096)]
User = Annotated[str, StringConstraints(pattern=patterns.USER)]
"""`name`, `uid`, `name:group` or `uid:gid`, looked up in the container's own /etc/passwd and /etc/group."""
EXEC_TIMEOUT_MS = 30_000
EXEC_TIMEOUT_MAX_MS = 600_000


class ContainerCreate(Model):
    name: Name
    image: Annotated[str, StringConstraints(min_length=1, max_length=256)] = "host"
    command: Command | None = None
    volumes: list[Attachment] = Field(default=[], max_length=32)
    working_directory: AbsolutePath = "/"
    """Where its commands begin; made at a start where it is not there, by the container's root."""
    memory_limit_mb: int = Field(512, ge=16, le=1_048_576)
    cpu_limit_percent: int = Field(100, ge=1, le=100_000)
    pids_limit: int = Field(512, ge=4, le=32_768)
    environment: Environment = {}
    labels: Labels = {}
    strict: bool = False
    network: Literal["bridge", "none"] = "bridge"
    ttl_seconds: float | None = Field(None, gt=0, le=31_536_000)
    restart: Literal["no", "on-failure", "always"] = "no"

    _environment_size = field_validator("environment")(_environment_size)


class Checks(Record):
    """What readiness was found to be, each asked for and not assumed; None where it does not apply."""

    state_running: bool
    init_responsive: bool
    network_configured: bool | None
    image_valid: bool


class Readiness(Record):
    container_id: str
    state: ContainerState
    exec_ready: bool
    network_ready: bool
    checks: Checks


class ContainerRecord(Record):
    """Times are ISO 8601 UTC. `exit_code` is the command's (128 + signal where one ended it); `exit_reason` tells apart
    `exited`, `signalled`, `out_of_memory`, `not_started`, `init_died`, `stopped`, `killed`, and `platform_ended` of one
    that ran when the platform or the machine went down.
    """

    container_id: str
    tenant_id: str
    name: str
    state: ContainerState
    image: str
    command: list[str] | None
    volumes: list[str]
    pid: int | None
    exit_code: int | None
    exit_reason: str | None
    error_message: str | None
    ip_address: str | None
    created_at: str
    started_at: str | None
    exited_at: str | None
    working_directory: str
    memory_limit_mb: int
    cpu_limit_percent: int
    pids_limit: int
    strict: bool
    network: str
    restart: str
    restart_count: int
    ttl_seconds: float | None
    expires_at: str | None
    labels: dict[str, str]
    exec_ready: bool
    network_ready: bool
    checks: Checks


class ExecRequest(Model):
    command: Command
    workdir: AbsolutePath | None = None
    timeout_ms: int = Field(EXEC_TIMEOUT_MS, ge=1, le=EXEC_TIMEOUT_MAX_MS)
    environment: Environment = {}
    stdin: str | None = None
    stdin_data: str | None = None
    """Base64, for input that is no text; instead of `stdin`."""
    user: User | None = None

    _environment_size = field_validator("environment")(_environment_size)


class ExecResult(Record):
    """`stdout` and `stderr` hold at most 1 MiB each; `truncated` says whether more came. Where one is not UTF-8, its
    text has U+FFFD for what is not, and `stdout_b64` or `stderr_b64` has all of its bytes; else that is null.
    `exit_code` is 128 + signal where a signal ended the command. `exit_reason` tells apart `exited`, `signalled`,
    `out_of_memory` (the container's memory ran out, and the kernel killed the command), `timed_out`, `not_started`.
    """

    container_id: str
    exit_code: int
    exit_reason: str
    stdout: str
    stderr: str
    stdout_b64: str | None = None
    stderr_b64: str | None = None
    execution_time_ms: float
    timed_out: bool
    truncated: bool

    @property
    def stdout_bytes(self) -> bytes:
        """Exactly what it wrote."""
        return from_json(self.stdout, self.stdout_b64)

    @property
    def stderr_bytes(self) -> bytes:
        """Exactly what it wrote."""
        return from_json(self.stderr, self.stderr_b64)


class StreamRequest(Model):
    command: Command
    working_directory: AbsolutePath | None = None
    environment: Environment = {}
    timeout_ms: int | None = Field(None, ge=1, le=86_400_000)
    stdin_data: str | None = None
    """Base64."""
    user: User | None = None

    _environment_size = field_validator("environment")(_environment_size)


Frame = dict[str, Any]
"""One line of a stream: started, stdout, stderr, timeout, exit or error (API: exec stream)."""
