"""The types of a handler's second parameter, for annotations: `def handler(event, context: quilt_fn.Context)`.

Not here: the objects themselves, which the guest makes inside the instance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Request(Protocol):
    """The HTTP request of an invocation. `body` is raw, `path` what follows the function's own path."""

    method: str
    path: str
    query: dict[str, str]
    query_string: str
    headers: Mapping[str, str]
    """By name in any case."""
    body: bytes


class Context(Protocol):
    """What an invocation knows of itself, with Lambda's names beside ours."""

    invocation_id: str
    deadline: float
    """Epoch seconds at which the instance is ended."""
    attempt: int

    @property
    def request(self) -> Request | None:
        """None where the invocation did not come by the function's own URL."""
        ...

    @property
    def function_name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def instance_id(self) -> str: ...

    @property
    def memory_limit_mb(self) -> int: ...

    def remaining_s(self) -> float:
        """Seconds until `deadline`, never below 0."""
        ...

    @property
    def aws_request_id(self) -> str: ...

    @property
    def function_version(self) -> str: ...

    @property
    def memory_limit_in_mb(self) -> int: ...

    def get_remaining_time_in_millis(self) -> int: ...
