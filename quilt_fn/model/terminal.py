"""Terminal sessions as the API takes and gives them. Not here: the websocket's frames (docs/reference/terminals.md)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from quilt_fn.model.common import Model, Record
from quilt_fn.model.container import AbsolutePath, User
from quilt_fn.model.function import Environment, _environment_size

SIDE_MAX = 1000


class TerminalSize(Model):
    cols: int = Field(ge=1, le=SIDE_MAX)
    rows: int = Field(ge=1, le=SIDE_MAX)


class TerminalCreate(Model):
    """`shell` is by default bash where the container has one, else sh."""

    container_id: str = Field(min_length=1, max_length=64)
    cols: int = Field(80, ge=1, le=SIDE_MAX)
    rows: int = Field(24, ge=1, le=SIDE_MAX)
    shell: AbsolutePath | None = None
    working_directory: AbsolutePath | None = None
    environment: Environment = {}
    user: User | None = None

    _environment_size = field_validator("environment")(_environment_size)


class TerminalRecord(Record):
    """Times are ISO 8601 UTC. `reason` says why it ended: exited, deleted, ttl, idle, container_gone.

    `attach_url` and `page_url` are paths on this platform. Only the answer to a create holds the session's own ticket
    in them: whoever has it may attach to this one session, and do nothing else.
    """

    session_id: str
    container_id: str
    state: Literal["running", "ended"]
    attach_url: str
    page_url: str
    cols: int
    rows: int
    pid: int
    clients: int
    exit_code: int | None
    reason: str | None
    created_at: str
    last_active_at: str
    ended_at: str | None
    expires_at: str
