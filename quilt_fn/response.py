"""What a handler returns to say status, headers and body of its HTTP answer itself.

Not here: how it is sent; the guest knows it by `__quilt_response__` and reads status, headers and body of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class Response:
    """An HTTP answer: `return Response(png, headers={"Content-Type": "image/png"})`.

    `body` follows the rules of a plain return value: dict, list, number, bool and None become JSON, str text, bytes
    octets, a generator a stream. A Content-Type in `headers` wins over the one that the body would give; a list as a
    header's value sends the header several times.
    """

    __quilt_response__: ClassVar[bool] = True

    body: Any = None
    status: int = 200
    headers: Mapping[str, str | list[str]] = field(default_factory=dict)
