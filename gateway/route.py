"""A line of the route table, and a concern: the lines that belong together, with what its guide says of them.

Not here: the handlers (each concern's own file) and what is generated from this (`gateway.guides`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from gateway.context import Handler


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter. `kind` is string | integer | number | boolean."""

    name: str
    says: str
    kind: str = "string"
    required: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """A line of the table. `public`: no key is asked for here; `token`: the key may also come as `?token=`.

    What documents it beyond `says`: `body` is the model of a JSON body or the media type of a raw one, `answers` the
    model of the JSON answer, an example of it, or the media type of a raw one; `status` that of a success.
    """

    method: str
    path: str
    handler: Handler
    says: str
    public: bool = False
    token: bool = False
    body: type[BaseModel] | str | None = None
    answers: type[BaseModel] | Mapping[str, Any] | str | None = None
    status: int = 200
    query: tuple[Query, ...] = ()
    replay: Literal["", "answer", "secret", "conflict"] | None = None
    """What a repeated Idempotency-Key gets: the `answer` of the first; so, but with an answer that is a `secret` and
    stays in memory; a 409 with the first's operation_id (`conflict`); the header means nothing (``). By default
    `answer` where `status` is 201 or 202.
    """

    @property
    def replays(self) -> bool:
        return bool(self.replay) or (self.replay is None and self.status in (201, 202))


@dataclass(frozen=True, slots=True)
class Concern:
    """What `GET /api/<name>/help`, `/examples` and `/health` are made from."""

    name: str
    says: str
    routes: tuple[Route, ...]
    rules: tuple[str, ...] = ()
    """Sentences that the models can't say: limits, orders, what happens at the edges."""
    states: tuple[str, ...] = field(default=())
    """Names of tables in quilt_fn.states that its records go through."""
