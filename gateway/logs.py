"""The node's log: one JSON object a line on stderr, with credentials masked whoever wrote the line.

Not here: the output of functions (pool keeps that), nor an access log (records and metrics say what was served).
"""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import TextIO

import orjson

_TOKEN = re.compile(r"((?:[?&]|\b)token=)[^&\s\"'#]+", re.IGNORECASE)
_KEY = re.compile(r"quilt_sk_[0-9A-Za-z]+")
_FIELDS = ("request_id", "method", "path", "invocation_id", "function")


def mask(text: str) -> str:
    """`text` without the value of any `token=` and without any API key."""
    if "token=" not in text.lower() and "quilt_sk_" not in text:
        return text
    return _KEY.sub("quilt_sk_***", _TOKEN.sub(r"\1***", text))


class JsonLines(logging.Formatter):
    """`{"t", "level", "logger", "message", …, "exception"}`; what comes as `extra` appears where it is known."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "t": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": mask(record.getMessage()),
        }
        for name in _FIELDS:
            value = getattr(record, name, None)
            if value is not None:
                line[name] = mask(str(value))
        if record.exc_info:
            line["exception"] = mask(self.formatException(record.exc_info))
        return orjson.dumps(line).decode()


def configure(stream: TextIO = sys.stderr, level: int = logging.INFO) -> None:
    """Make the root logger write JSON lines to `stream`, in place of whatever handlers it had."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
