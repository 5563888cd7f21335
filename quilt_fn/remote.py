"""Calls on the wire: args and kwargs as one body, and from the answer the value, or the exception raised again.

Not here: HTTP itself (`transport`), nor how things are pickled (`pickling`). An answer is one of

    application/vnd.quilt.result      the pickled value
    application/vnd.quilt.exception   the pickled exception, with X-Quilt-Error: base64 of the JSON error body, whose
                                      details.traceback is the remote traceback
    application/json                  an error body (the exception could not be pickled, or the platform refused)
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping
from typing import Any

from quilt_fn import errors

CALL = "application/vnd.quilt.call"
RESULT = "application/vnd.quilt.result"
EXCEPTION = "application/vnd.quilt.exception"


PYTHON = "X-Quilt-Python"
"""The header of a call that says which Python pickled it, by its minor version."""
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"


class RemoteTraceback(Exception):
    """The `__cause__` of an exception that came from an instance: shows the traceback as it was there.

    `error` is the platform's own account of it (code, details, hint).
    """

    def __init__(self, text: str, error: errors.QuiltError) -> None:
        super().__init__(text)
        self.text = text
        self.error = error

    def __str__(self) -> str:
        return "\n" + self.text.rstrip()


def dumps_call(args: tuple[Any, ...], kwargs: Mapping[str, Any], script: str | None) -> bytes:
    """The body of a call. Raises InvalidValue where an argument can't be pickled."""
    from quilt_fn import pickling

    return pickling.dumps((args, dict(kwargs)), script)


def loads_answer(content_type: str, headers: Mapping[str, str], body: bytes, script: str | None) -> Any:
    """The value of an answer with status 200. Raises what the function raised, or a QuiltError."""
    kind = content_type.split(";")[0].strip().lower()
    if kind == EXCEPTION:
        raise exception(headers, body, script)
    if kind != RESULT:
        raise errors.InternalError(
            f"the answer to a call is {kind or 'of no type'}, not {RESULT}", hint="is this URL a Quilt platform?"
        )
    from quilt_fn import pickling

    try:
        return pickling.loads(body, script)
    except Exception as error:
        raise errors.ResultNotSerialisable(
            f"the result came, but it cannot be opened here: {type(error).__name__}: {error}",
            hint="what the function returns must be importable here too",
        ) from error


def exception(headers: Mapping[str, str], body: bytes, script: str | None) -> BaseException:
    """The exception of a failed call, with its remote traceback as the cause.

    Where it can't be opened here (its class is not installed, say), the platform's HANDLER_ERROR stands for it.
    """
    from quilt_fn import pickling

    error = _platform_error(headers)
    text = str((error.details or {}).get("traceback") or error.message)
    try:
        raised: Any = pickling.loads(body, script)
    except Exception as problem:
        error.add_note(f"(the exception itself cannot be opened here: {type(problem).__name__}: {problem})")
        raised = error
    if not isinstance(raised, BaseException):
        error.add_note(f"(what came as the exception is a {type(raised).__name__})")
        raised = error
    failure: BaseException = raised
    failure.__cause__ = RemoteTraceback(text, error)
    return failure


def error_of(body: bytes, status: int, url: str) -> errors.QuiltError:
    """The error that an answer with an error status stands for; what is no error body is named as such."""
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = None
    if isinstance(parsed, dict) and "error_code" in parsed:
        error = errors.from_body(parsed)
        text = (error.details or {}).get("traceback")
        if isinstance(error, errors.FunctionFailed) and text:
            error.__cause__ = RemoteTraceback(str(text), error)
        return error
    shown = body[:200].decode(errors="replace")
    return errors.InternalError(
        f"{url} answered {status} without an error body of Quilt's: {shown!r}", hint="is this URL a Quilt platform?"
    )


def _platform_error(headers: Mapping[str, str]) -> errors.QuiltError:
    try:
        parsed = json.loads(base64.b64decode(headers.get("X-Quilt-Error", ""), validate=True))
    except ValueError:
        parsed = None
    if isinstance(parsed, dict):
        return errors.from_body(parsed)
    code = headers.get("X-Quilt-Error-Code", "HANDLER_ERROR")
    return errors.from_body({"error": "the function failed", "error_code": code})
