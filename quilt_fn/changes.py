"""What a deploy changes of a function's options against the version before, in words: an option that is not repeated
goes back to its default, and that should be seen.

Not here: the code, which is meant to change. Of secrets and environment only names are told.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quilt_fn.model.function import FunctionRecord, FunctionSpec

_NOT_OPTIONS = frozenset({"bundle_id", "source", "labels", "python"})
_PRIVATE = frozenset({"secrets", "environment"})
_SHOWN_LIMIT = 80


def changes(before: FunctionRecord, after: FunctionSpec) -> list[str]:
    """Such as `auth: public → key`, one for each option, in the order of the API's fields. What an older platform does
    not tell of its function is not compared.
    """
    from quilt_fn.model.function import FunctionUpdate

    compared = [name for name in FunctionUpdate.model_fields if name in before.model_fields_set - _NOT_OPTIONS]
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    found = [_change(name, old[name], new[name]) for name in compared]
    return [text for text in found if text is not None]


def _change(name: str, old: Any, new: Any) -> str | None:
    if name in _PRIVATE:
        names = sorted(old), sorted(new)
        if names[0] != names[1]:
            return f"{name}: {_shown(names[0])} → {_shown(names[1])}"
        other = sorted(key for key in new if isinstance(old, dict) and old[key] != new[key])
        return f"{name}: {', '.join(other)} changed" if other else None
    return None if old == new else f"{name}: {_shown(old)} → {_shown(new)}"


def _shown(value: Any) -> str:
    if value in (None, "", [], {}):
        return "none"
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        text = ", ".join(value)
    elif isinstance(value, float):
        text = f"{value:g}"
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_LIMIT else text[:_SHOWN_LIMIT] + "…"
