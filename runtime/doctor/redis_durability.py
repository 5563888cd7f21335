"""Whether a Redis of one's own keeps what it was told when it is killed: asked by CONFIG GET, judged in one place.

Standard library only, and a few lines of Redis's protocol, because the doctor runs before any platform does. Not here:
the private redis-server, which the supervisor starts with `appendfsync always`.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Asked:
    """`durable` None: not known; `why` says of either."""

    answers: bool
    durable: bool | None
    why: str


class _Stream(Protocol):
    def write(self, data: bytes, /) -> Any: ...

    def flush(self) -> None: ...

    def read(self, size: int, /) -> bytes: ...

    def readline(self, size: int, /) -> bytes: ...


def judge(config: Mapping[str, str] | None) -> tuple[bool | None, str]:
    """(durable, why) of what CONFIG GET append* answered; None for both where it was refused: not known."""
    if not config or "appendonly" not in config:
        return None, "durability unknown: CONFIG GET is refused there"
    if config["appendonly"] != "yes":
        return False, "it has no append-only file: a crash loses what came since its last snapshot"
    fsync = config.get("appendfsync", "?")
    if fsync == "always":
        return True, "append-only file, fsync always"
    lost = "the last second" if fsync == "everysec" else "what the system had not written yet"
    return False, f"appendfsync is {fsync}: a crash loses {lost}"


def ask(url: str) -> Asked:
    """As `judge`, of the Redis at `url`. Where it can't be asked that is the reason; never raises."""
    try:
        return Asked(True, *judge(_config(url)))
    except (OSError, ValueError) as error:
        return Asked(False, None, f"it does not answer ({error})")


def _config(url: str) -> dict[str, str] | None:
    parts = urlsplit(url)
    with _connect(url) as sock, sock.makefile("rwb") as stream:
        password = unquote(parts.password) if parts.password else parse_qs(parts.query).get("password", [""])[0]
        if password:
            user = [unquote(parts.username)] if parts.username else []
            if _call(stream, "AUTH", *user, password) != "OK":
                raise ValueError("it refuses the password")
        answer = _call(stream, "CONFIG", "GET", "append*")
    if not isinstance(answer, list):
        return None
    words = [str(word) for word in answer]
    return dict(zip(words[::2], words[1::2], strict=True))


def _connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT_S)
        try:
            sock.connect(parts.path)
        except BaseException:
            sock.close()
            raise
        return sock
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError(f"{parts.scheme or url}: not redis://, rediss:// or unix://")
    host = parts.hostname or "localhost"
    sock = socket.create_connection((host, parts.port or 6379), TIMEOUT_S)
    return ssl.create_default_context().wrap_socket(sock, server_hostname=host) if parts.scheme == "rediss" else sock


def _call(stream: _Stream, *words: str) -> object:
    """One command; text, a list, or None for an error or nothing."""
    stream.write(b"*%d\r\n" % len(words))
    for word in words:
        raw = word.encode()
        stream.write(b"$%d\r\n%s\r\n" % (len(raw), raw))
    stream.flush()
    return _read(stream)


def _read(stream: _Stream) -> object:
    line = stream.readline(4096)
    if not line.endswith(b"\r\n"):
        raise ValueError("it does not speak Redis's protocol")
    kind, rest = line[:1], line[1:-2]
    if kind == b"+":
        return rest.decode()
    if kind == b"-":
        return None
    if kind == b"$":
        return None if rest == b"-1" else stream.read(int(rest) + 2)[:-2].decode()
    if kind == b"*":
        return [_read(stream) for _ in range(int(rest))]
    raise ValueError("it does not speak Redis's protocol")
