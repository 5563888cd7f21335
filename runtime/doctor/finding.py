"""One line of the doctor's report: a part of the machine, whether it is there, and what follows.

Not here: how it was found out (`checks_*`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """`required`: nothing runs without it. `lost` and `get` matter only where `ok` is false, and are always given."""

    name: str
    ok: bool
    detail: str
    lost: str
    get: str
    required: bool = False

    def as_json(self) -> dict[str, Any]:
        body = asdict(self)
        if self.ok:
            body["lost"] = body["get"] = None
        return body
