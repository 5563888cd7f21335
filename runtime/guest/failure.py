"""FAIL frames: what went wrong in user code, with a traceback that begins in user code and fits into a frame.

Not here: which code it is, and the results that go well (`response`).
"""

from __future__ import annotations

import os
import sys
import traceback

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    Send = Callable[[int, dict[str, Any] | bytes, bytes], None]
    """Kind, meta (a dict, or JSON that stands ready), body: `instance.Frames.send`."""

MESSAGE_LIMIT = 32_000
TRACEBACK_LIMIT = 128_000
_GUEST = f"{os.path.dirname(__file__)}/"


class NotSerialisable(Exception):
    """A result that cannot be sent as what it stands for; the message says what and where."""


def flush_output() -> None:
    """Push out what user code has printed: the node takes an invocation's output for complete with its result."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):  # user code closed or replaced it: nothing is left to push
                continue


def fail(send: Send, error: BaseException, code: str | None = None, *, pickled: bool = False, limit: int = 0) -> None:
    """Send `error`, raised by user code or for its result, as FAIL; `code` where it is neither.

    With `pickled`, and where it survives the way there and back, the exception itself goes too.
    """
    flush_output()
    meta = {
        "code": code or ("RESULT_NOT_SERIALISABLE" if isinstance(error, NotSerialisable) else "HANDLER_ERROR"),
        "type": type_name(error),
        "message": message(error),
        "traceback": None if isinstance(error, NotSerialisable) else format_traceback(error),
    }
    body = _pickle(error) if pickled and not isinstance(error, NotSerialisable) else b""
    send(wire.FAIL, meta, body if len(body) <= limit else b"")


def refuse(send: Send, code: str, text: str, kind: str = "ValueError") -> None:
    """Send a FAIL for something that no exception stands for."""
    flush_output()
    send(wire.FAIL, {"code": code, "type": kind, "message": clean(text, MESSAGE_LIMIT), "traceback": None}, b"")


def type_name(error: BaseException) -> str:
    cls = type(error)
    return cls.__qualname__ if cls.__module__ in ("builtins", "__main__") else f"{cls.__module__}.{cls.__qualname__}"


def message(error: BaseException) -> str:
    """str(error), of which user code may have made anything."""
    if isinstance(error, SystemExit):
        return f"the handler called sys.exit({error.code!r})"[:MESSAGE_LIMIT]
    try:
        return clean(str(error), MESSAGE_LIMIT)
    except BaseException as broken:
        return f"(its text cannot be had: {type_name(broken)})"


def format_traceback(error: BaseException) -> str:
    """The traceback as Python prints it, without the guest's own frames at its top."""
    try:
        lines = traceback.format_exception(type(error), error, user_frames(error.__traceback__))
        return clean("".join(lines), TRACEBACK_LIMIT)
    except BaseException as broken:
        return f"(the traceback cannot be had: {type_name(broken)})"


def user_frames(tb: TracebackType | None) -> TracebackType | None:
    """`tb` from its first frame outside of the guest and of the import system on; all of it where there is none."""
    rest = tb
    while rest is not None and _is_ours(rest.tb_frame.f_code.co_filename):
        rest = rest.tb_next
    return rest


def _is_ours(filename: str) -> bool:
    if filename.startswith(_GUEST) or filename.startswith("<frozen importlib"):
        return True
    return filename.endswith(("/asyncio/base_events.py", "/importlib/__init__.py"))


def clean(text: str, limit: int) -> str:
    """`text` as valid UTF-8 of at most `limit` characters; of a longer one the beginning and the end."""
    if len(text) > limit:
        text = f"{text[: limit // 2]}\n… {len(text) - limit} characters left out …\n{text[-limit // 2 :]}"
    return text.encode("utf-8", "backslashreplace").decode()


def _pickle(error: BaseException) -> bytes:
    """`error` pickled, if that opens again: an exception with its own __init__ often pickles but does not open."""
    try:
        import pickle

        import cloudpickle  # type: ignore[import-untyped]

        data: bytes = cloudpickle.dumps(error, protocol=5)
        return data if type(pickle.loads(data)).__qualname__ == type(error).__qualname__ else b""
    except BaseException:
        return b""
