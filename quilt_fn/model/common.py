"""Shapes that every route shares: the error body, lists, ids.

Not here: the exceptions themselves (`quilt_fn.errors`).
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from quilt_fn.model import patterns


def new_id(prefix: str) -> str:
    """`<prefix>_<20 hex>`: 80 random bits. Prefixes: fn, inv, ctr, snp, vol, op, ses, node, ins."""
    return f"{prefix}_{secrets.token_hex(10)}"


Attachment = Annotated[str, StringConstraints(pattern=patterns.ATTACHMENT, max_length=1200)]
"""`<volume>:<target>[:ro]`."""


Label = Annotated[str, StringConstraints(max_length=256)]
Labels = Annotated[dict[Label, Label], Field(max_length=64)]


class Model(BaseModel):
    """Base of what comes from outside: unknown fields are refused, so that a misspelt one is not silently ignored."""

    model_config = ConfigDict(extra="forbid")


class Record(BaseModel):
    """Base of what we answer: unknown fields are kept, so that an older client reads a newer platform."""

    model_config = ConfigDict(extra="allow")


class ErrorBody(Record):
    error: str
    error_code: str
    request_id: str
    details: dict[str, Any] | None = None
    retry_after: float | None = None
    hint: str | None = None
