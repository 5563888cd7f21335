"""A line of the route table, and a concern: the lines that belong together, with what its guide says of them.

Not here: the handlers (each concern's own file) and what is generated from this (`gateway.guides`, `gateway.openapi`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from gateway.context import Ask, Handler


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter. `kind` is string | integer | number | boolean."""

    name: str
    says: str
    kind: str = "string"
    required: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """A line of the table. `public`: no key is asked for here; `token`: the key may also come as `?token=`; `loopback`:
    QUILT_PUBLIC_METRICS opens it to loopback, without a key.

    What documents it beyond `says`: `body` is the model of a JSON body or the media type of a raw one, `answers` the
    model of the JSON answer, an example of it, or the media type of a raw one; `status` that of a success.
    """

    method: str
    path: str
    handler: Handler
    says: str
    public: bool = False
    token: bool = False
    loopback: bool = False
    body: type[BaseModel] | str | None = None
    answers: type[BaseModel] | Mapping[str, Any] | str | None = None
    status: int = 200
    also: tuple[int, ...] = ()
    """Statuses of other successes, with the same answer."""
    query: tuple[Query, ...] = ()
    headers: tuple[Query, ...] = ()
    """Headers of its own; the key and Idempotency-Key go without saying."""
    fills: bool = False
    """Whether it takes room on the disk for good: 507 while there is too little (QUILT_DISK_RESERVE_MB)."""
    replay: Literal["", "answer", "secret", "conflict"] | None = None
    """What a repeated Idempotency-Key gets: the `answer` of the first; so, but with an answer that is a `secret` and
    stays in memory; a 409 with the first's operation_id (`conflict`); the header means nothing (``). By default
    `answer` where `status` is 201 or 202.
    """

    @property
    def shown_path(self) -> str:
        """The path without what the router needs: `{path}` for `{path:(?s:.+)}`."""
        return re.sub(r"\{(\w+):[^}]*\}", r"{\1}", self.path)

    @property
    def replays(self) -> bool:
        return bool(self.replay) or (self.replay is None and self.status in (201, 202))


@dataclass(frozen=True, slots=True)
class Example:
    """A request of `GET /api/<concern>/examples`. They work in their order, on a platform that has none of their names.

    `{{name}}` in path, body and headers stands for the field `name` of the newest answer before it that has one.
    `body` is JSON, or the text of a raw body, whose media type `headers` says then.
    """

    method: str
    path: str
    says: str
    body: Mapping[str, Any] | str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    lines: int = 0
    """Of an answer that does not end: leave it after so many lines. 0: read it to its end."""


FULL = (
    "Less than QUILT_DISK_RESERVE_MB free on the node's disk: 507 DISK_FULL for what takes room; what is there goes on."
)
"""A rule of the concerns that have such routes (`Route.fills`)."""
Probe = Callable[[Ask], Awaitable[str | None]]
"""None where the concern can work now, else why it can't. It asks, and assumes nothing."""


@dataclass(frozen=True, slots=True)
class Concern:
    """What `GET /api/<name>/help`, `/examples` and `/health` are made from."""

    name: str
    says: str
    routes: tuple[Route, ...]
    health: Probe
    examples: tuple[Example, ...]
    rules: tuple[str, ...] = ()
    """Sentences that the models can't say: limits, orders, what happens at the edges."""
    states: tuple[str, ...] = ()
    """Names of tables in quilt_fn.states that its records go through."""
