"""What a handler is told about its invocation: the second argument, with Lambda's names beside our own.

Not here: how the event itself is read (`handler`), and the apps that get the request as ASGI or WSGI want it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class StaticInfo:
    """What stays the same for all invocations of an instance. `result_limit` is in bytes."""

    __slots__ = ("function_name", "instance_id", "memory_limit_mb", "result_limit", "version")

    def __init__(
        self, instance_id: str, function_name: str, version: int, memory_limit_mb: int, result_limit: int
    ) -> None:
        self.instance_id = instance_id
        self.function_name = function_name
        self.version = version
        self.memory_limit_mb = memory_limit_mb
        self.result_limit = result_limit


class Headers(Mapping[str, str]):
    """Header fields of a request: names in any case, the first value of a field that came more than once."""

    __slots__ = ("_first", "pairs")

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs
        self._first: dict[str, str] = {}
        for name, value in pairs:
            self._first.setdefault(name.lower(), value)

    def __getitem__(self, name: str) -> str:
        return self._first[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def __len__(self) -> int:
        return len(self._first)

    def __repr__(self) -> str:
        return f"Headers({self.pairs!r})"

    def get_all(self, name: str) -> list[str]:
        """Every value of the field `name`, in the order in which they came."""
        return [value for key, value in self.pairs if key.lower() == name.lower()]


class Request(Mapping[str, "Any"]):
    """The HTTP request of an invocation, by attributes or by keys.

    `body` is raw; `path` is what follows the function's own path, which is `root_path`.
    """

    __slots__ = ("body", "headers", "method", "path", "query", "query_string", "remote", "root_path")

    def __init__(self, raw: Mapping[str, Any], body: bytes) -> None:
        self.method = str(raw.get("method") or "GET")
        self.path = str(raw.get("path") or "/")
        self.root_path = str(raw.get("root_path") or "")
        self.headers = Headers([(str(name), str(value)) for name, value in raw.get("headers") or ()])
        self.query_string, self.query = read_query(raw.get("query"))
        self.remote = raw.get("remote")
        self.body = body

    def __getitem__(self, name: str) -> Any:
        if name not in self.__slots__:
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.__slots__)

    def __len__(self) -> int:
        return len(self.__slots__)

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path}>"


def read_text(raw: Mapping[str, Any], body: bytes) -> str:
    """A body that stands for text, never taken for JSON: of a text/* request by its charset, else UTF-8. Raises
    UnicodeDecodeError, LookupError where it is not in the charset that the request names.
    """
    for name, value in raw.get("headers") or ():
        if name.lower() == "content-type" and value.strip().lower().startswith("text/"):
            _, _, rest = value.lower().partition("charset=")
            return body.decode(rest.partition(";")[0].strip(' "') or "utf-8")
    return body.decode("utf-8", "replace")


def read_query(raw: Any) -> tuple[str, dict[str, str]]:
    """A query as its text and as a dict (of a name that came twice, the last value); from the text, pairs or a dict."""
    if not raw:
        return "", {}
    from urllib.parse import parse_qsl, urlencode  # not needed by most, and slow to import

    if isinstance(raw, str):
        return raw, dict(parse_qsl(raw, keep_blank_values=True))
    pairs = list(raw.items()) if isinstance(raw, Mapping) else [(pair[0], pair[1]) for pair in raw]
    return urlencode(pairs, doseq=True), {str(k): v[-1] if isinstance(v, list) else str(v) for k, v in pairs}


class Context:
    """The second argument of a handler. Times are in the units of their names; `deadline` is in epoch seconds."""

    __slots__ = ("_raw", "_request", "_static", "attempt", "deadline", "invocation_id")

    client_context = None
    identity = None

    def __init__(self, meta: Mapping[str, Any], body: bytes, static: StaticInfo) -> None:
        self.invocation_id: str = meta["id"]
        self.deadline: float = meta["deadline"]
        self.attempt: int = meta.get("attempt", 1)
        self._static = static
        self._raw = (meta.get("req"), body)
        self._request: Request | None = None

    @property
    def request(self) -> Request | None:
        """The HTTP request; None where the invocation did not come by the function's own URL."""
        raw, body = self._raw
        if self._request is None and raw:
            self._request = Request(raw, body)
        return self._request

    @property
    def function_name(self) -> str:
        return self._static.function_name

    @property
    def version(self) -> int:
        return self._static.version

    @property
    def instance_id(self) -> str:
        return self._static.instance_id

    @property
    def memory_limit_mb(self) -> int:
        return self._static.memory_limit_mb

    def remaining_s(self) -> float:
        """Seconds until the instance is ended; never below 0."""
        return max(0.0, self.deadline - time.time())

    # Lambda's names.

    @property
    def aws_request_id(self) -> str:
        return self.invocation_id

    @property
    def function_version(self) -> str:
        return str(self._static.version)

    @property
    def memory_limit_in_mb(self) -> int:
        return self._static.memory_limit_mb

    @property
    def invoked_function_arn(self) -> str:
        return f"arn:quilt:function:{self._static.function_name}:{self._static.version}"

    @property
    def log_group_name(self) -> str:
        return self._static.function_name

    @property
    def log_stream_name(self) -> str:
        return self._static.instance_id

    def get_remaining_time_in_millis(self) -> int:
        return int(self.remaining_s() * 1000)

    def __repr__(self) -> str:
        return f"<Context {self.invocation_id} of {self.function_name} v{self.version}>"
