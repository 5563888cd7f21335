"""A container's network and its published services, as the API takes and gives them.

Not here: how it is done (`runtime.spawner.attachments`, `runtime.network`), and who keeps what (`pool.network`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from quilt_fn.model.common import Model, Record
from quilt_fn.model.function import Name

TTL_MAX_S = 31_536_000


class NetworkUpdate(Model):
    """`egress`: whether the container reaches anything but its tenant's containers; open connections count too."""

    egress: bool


class NetworkRecord(Record):
    """`ip_address` is the container's own from its first start to its delete. `names` find it in its tenant's
    containers. A container of `network: none` has nothing of this.
    """

    container_id: str
    network: Literal["bridge", "none"]
    ip_address: str | None
    gateway: str | None
    subnet: str | None
    bridge: str | None
    egress: bool
    names: list[str]


class CheckRecord(Record):
    """`ok` is null where the check does not apply, or could not be made here; `found` says what was seen."""

    name: str
    ok: bool | None
    found: str


class Diagnostics(Record):
    """`healthy`: no check failed."""

    container_id: str
    healthy: bool
    checks: list[CheckRecord]


class AllocationRecord(Record):
    container_id: str
    name: str
    ip_address: str
    egress: bool
    attached: bool
    """Whether it is connected now: it runs."""


class NameRecord(Record):
    name: str
    fqdn: str
    ip_address: str
    container_id: str


class ServiceCreate(Model):
    """`auth_mode` `token` asks each request for the service's token, `public` for nothing. `ttl_secs` null: until it is
    deleted, or its container is.
    """

    name: Name
    target_port: int = Field(ge=1, le=65_535)
    auth_mode: Literal["token", "public"] = "token"
    ttl_secs: float | None = Field(None, gt=0, le=TTL_MAX_S)


class ServiceRecord(Record):
    """`token` is seen in the answer to the create and never again: only its sha256 is kept."""

    service_id: str
    container_id: str
    name: str
    target_port: int
    auth_mode: str
    path: str
    created_at: str
    expires_at: str | None
    token: str | None = None
