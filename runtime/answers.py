"""What a guest says that an invocation came to, judged: an HTTP response, a failure, or neither.

The guest is the function's own process, so nothing that it says is taken on trust; what it says wrongly is a failure
of the function, and stands so in its record. Not here: when the guest speaks (`instance`), how a response is sent.
"""

from __future__ import annotations

import re
from typing import Any

from runtime.api import Failure, Outcome

KINDS = ("json", "text", "bytes", "pickle")
_FAILURES = ("HANDLER_ERROR", "RESULT_NOT_SERIALISABLE", "RESULT_TOO_LARGE", "BAD_EVENT")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
"""Field names and values of RFC 9110, 5.1 and 5.5, as latin-1."""


def result(meta: dict[str, Any], body: bytes) -> Outcome:
    """What a RESULT frame tells. A status is from 200 to 599: what comes before is the connection's own."""
    status, headers, kind = meta.get("status", 200), meta.get("headers", []), meta.get("kind", "json")
    if type(status) is not int or not 200 <= status <= 599:
        return _refused(f"the handler answered with the status {status!r}; a status is a number from 200 to 599")
    if kind not in KINDS or not isinstance(headers, list) or not all(_is_pair(header) for header in headers):
        return _refused(f"the handler answered with no HTTP response: {kind!r} {headers!r}")
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            return _refused(
                f"the handler answered with a header that HTTP does not allow: {name[:80]!r}: {value[:80]!r}; "
                "no line breaks or control characters, and characters beyond latin-1 encoded first"
            )
    return Outcome(status=status, headers=headers, kind=kind, body=body)


def failure(meta: dict[str, Any], body: bytes) -> Failure:
    """The failure that a FAIL frame tells; `body` is the pickled exception, where there is one."""
    code = str(meta.get("code", "HANDLER_ERROR"))
    if code not in _FAILURES:
        code = "HANDLER_ERROR"
    if code == "HANDLER_ERROR" and meta.get("type") == "MemoryError":
        code = "HANDLER_OUT_OF_MEMORY"
    if code == "BAD_EVENT":
        code = "INVALID_REQUEST"
    trace = meta.get("traceback")
    return Failure(
        code,
        str(meta.get("type", "Exception")),
        str(meta.get("message", "")),
        None if trace is None else str(trace),
        body or None,
    )


def _refused(text: str) -> Outcome:
    return Outcome(failure=Failure("RESULT_NOT_SERIALISABLE", "BadResponse", text[:500]))


def _is_pair(header: object) -> bool:
    return isinstance(header, list) and len(header) == 2 and all(isinstance(text, str) for text in header)
