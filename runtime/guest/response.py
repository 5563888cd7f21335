"""What a handler returned, as what is sent: status, headers, kind, and a body or a stream of pieces.

The rules are those of the HTTP contract. JSON is strict: no NaN, no datetime, no numpy scalar, because a guess here is
a surprise at the client; the error names the type and where it stands. Not here: who sends it (`handler`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

from .failure import NotSerialisable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEADERS_LIMIT = 256_000
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_VALUE = re.compile(r"[\r\n\0]")
_HINTS = {
    "datetime": "return its isoformat()",
    "date": "return its isoformat()",
    "Decimal": "return str() or float() of it",
    "UUID": "return str() of it",
    "ndarray": "return its tolist()",
    "DataFrame": "return its to_dict(orient='records')",
    "Series": "return its tolist()",
    "set": "return a list of it",
    "frozenset": "return a list of it",
}

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_encode_ascii = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


class Reply:
    """One answer. Either `body` is all of it, or `stream` yields the pieces (str, bytes, or values for JSON lines)."""

    __slots__ = ("body", "headers", "kind", "status", "stream")

    def __init__(self, kind: str, body: bytes, stream: Iterator[Any] | AsyncIterator[Any] | None = None) -> None:
        self.status = 200
        self.headers: list[list[str]] = []
        self.kind = kind
        self.body = body
        self.stream = stream


def interpret(result: Any) -> Reply:
    """`result` by the rules. Raises NotSerialisable."""
    cls = type(result)
    if cls is dict:
        return _lambda(result) if "statusCode" in result else Reply("json", encode_json(result))
    if cls is tuple and len(result) in (2, 3) and _has_status(*result):
        return _with(_content(result[0]), result[1], result[2] if len(result) == 3 else None)
    if hasattr(cls, "__quilt_response__"):
        return _with(_content(result.body), result.status, result.headers)
    return _content(result)


def _content(value: Any) -> Reply:
    if isinstance(value, str):
        return Reply("text", encode_text(value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Reply("bytes", bytes(value))
    if is_stream(value):
        return Reply("bytes", b"", value)
    return Reply("json", encode_json(value))


def is_stream(value: Any) -> bool:
    """Whether `value` yields an answer piece by piece: a generator or iterator, async or not."""
    return isinstance(value, (Iterator, AsyncIterator))


def _has_status(body: Any, status: Any, headers: Any = None) -> bool:
    """Whether a tuple is (body, status[, headers]), and no list of values. Raises NotSerialisable for a mistyped
    status: a number after what can only be a body, and before what can only be headers. `rows, 1000` is a list.
    """
    if type(status) is not int:
        return False
    if 200 <= status <= 599:
        return True
    whole = isinstance(body, (str, bytes, bytearray, memoryview, Mapping)) or is_stream(body)
    if whole and (headers is None or isinstance(headers, (Mapping, list))):
        raise NotSerialisable(f"a status must be from 200 to 599, not {status}; return a list where it is none")
    return False


def _with(reply: Reply, status: Any, headers: Any) -> Reply:
    if status is not None and int(status) != 200:
        if not 200 <= int(status) <= 599:
            raise NotSerialisable(f"a status must be from 200 to 599, not {status!r}")
        reply.status = int(status)
    if headers:
        reply.headers = read_headers(headers.items() if isinstance(headers, Mapping) else headers)
    return reply


def _lambda(result: dict[str, Any]) -> Reply:
    try:
        status = int(result["statusCode"])
    except (TypeError, ValueError):
        raise NotSerialisable(f"statusCode must be a number, not {result['statusCode']!r}") from None
    body = result.get("body")
    if result.get("isBase64Encoded"):
        import base64
        import binascii

        try:
            reply = Reply("bytes", base64.b64decode(body or "", validate=True))
        except (TypeError, ValueError, binascii.Error) as error:
            raise NotSerialisable(f"isBase64Encoded is set, but the body is not base64: {error}") from None
    else:
        reply = Reply("text", b"") if body is None else _content(body)
    pairs = list((result.get("headers") or {}).items())
    for name, values in (result.get("multiValueHeaders") or {}).items():
        pairs = [pair for pair in pairs if str(pair[0]).lower() != str(name).lower()]
        pairs += [(name, value) for value in values]
    pairs += [("Set-Cookie", cookie) for cookie in result.get("cookies") or ()]
    return _with(reply, status, pairs)


def read_headers(pairs: Iterable[Any]) -> list[list[str]]:
    """Header fields as [[name, value]…]; a list as a value stands for several fields. Raises NotSerialisable."""
    fields: list[list[str]] = []
    size = 0
    try:
        for name, value in pairs:
            for one in value if isinstance(value, (list, tuple)) else (value,):
                fields.append([_header_text(name), _header_text(one)])
    except (TypeError, ValueError) as error:
        raise NotSerialisable(f"headers must be a dict or a list of (name, value): {error}") from None
    for name, value in fields:
        size += len(name) + len(value)
        if not _TOKEN.fullmatch(name) or _BAD_VALUE.search(value):
            raise NotSerialisable(f"not a header that HTTP can carry: {name!r}: {value[:100]!r}")
    if size > HEADERS_LIMIT:
        raise NotSerialisable(f"headers of {size} bytes; the limit is {HEADERS_LIMIT}")
    return fields


def _header_text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def encode_text(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise NotSerialisable(f"the text cannot be sent as UTF-8: {error.reason} at character {error.start}") from None


def encode_json(value: Any) -> bytes:
    """`value` as strict JSON. Raises NotSerialisable naming the type and the place of what is not JSON."""
    try:
        return _encode(value).encode()
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can say that, UTF-8 cannot
        return _encode_ascii(value).encode()
    except (TypeError, ValueError) as error:
        raise NotSerialisable(_find(value, "result", set()) or f"the result is not JSON: {error}") from None
    except RecursionError:
        raise NotSerialisable("the result is nested too deeply, or holds itself") from None


def _find(value: Any, path: str, above: set[int]) -> str | None:
    """A sentence about the first thing in `value` that is not JSON."""
    if value is None or isinstance(value, (str, bool, int)):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path} is {value!r}, which JSON does not have"
    if not isinstance(value, (dict, list, tuple)):
        name = type(value).__name__
        hint = f": {_HINTS[name]}" if name in _HINTS else ""
        return f"{path} is a {type(value).__module__}.{type(value).__qualname__}, which is not JSON{hint}"
    if id(value) in above:
        return f"{path} holds itself"
    inside = above | {id(value)}
    if isinstance(value, dict):
        for key in value:
            if not (key is None or isinstance(key, (str, int, float, bool))):
                return f"{path} has a key of type {type(key).__name__} ({key!r:.80}); JSON's keys are text"
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return next((found for k, v in items if (found := _find(v, f"{path}[{k!r:.80}]", inside))), None)


def encode_piece(piece: Any) -> bytes:
    """One piece of a stream. Raises NotSerialisable."""
    if isinstance(piece, str):
        return encode_text(piece)
    if isinstance(piece, (bytes, bytearray, memoryview)):
        return bytes(piece)
    return encode_json(piece) + b"\n"


def piece_kind(piece: Any) -> str:
    """The kind of a stream that begins with `piece`; values become JSON lines."""
    if isinstance(piece, str):
        return "text"
    return "bytes" if isinstance(piece, (bytes, bytearray, memoryview)) else "json"
