"""What is wrong with fields that came from outside, as the one 422 that tells it: each field, and what came.

Not here: the models that find it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from quilt_fn.errors import InvalidValue
from quilt_fn.model import patterns

_SHOWN_LIMIT = 120
_PRIVATE_FIELDS = ("secrets", "environment")


def from_validation(error: ValidationError) -> InvalidValue:
    """Pydantic's complaints as `details.fields`. Values of secrets and environment are never echoed."""
    fields = []
    for item in error.errors(include_url=False):
        field = ".".join(str(part) for part in item["loc"]) or "body"
        got = None if item["type"] == "missing" else shown(field, item["input"])
        fields.append({"field": _cut(field), "expected": _words(item), "got": got})
    return invalid_fields(fields)


def _words(item: ErrorDetails) -> str:
    """What Pydantic says, but for what only its authors understand."""
    if item["type"] == "string_pattern_mismatch":
        return patterns.WORDS.get(item["ctx"]["pattern"], item["msg"])
    return "there is no such field" if item["type"] == "extra_forbidden" else item["msg"]


def invalid_fields(fields: Sequence[dict[str, Any]]) -> InvalidValue:
    """A 422 whose message is the first field's trouble, and whose details name every field."""
    first = fields[0]
    more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
    return InvalidValue(f"{first['field']}: {first['expected']}{more}", details={"fields": list(fields)})


def shown(field: str, value: object) -> str:
    """What came, as it may be told: of what may be secret only its type, of long texts the beginning."""
    if field.split(".", 1)[0] in _PRIVATE_FIELDS:
        return f"({type(value).__name__}, not shown)"
    return _cut(value if isinstance(value, str) else repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_LIMIT else text[:_SHOWN_LIMIT] + "…"
