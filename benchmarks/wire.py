"""A small blocking HTTP/1.1 client on one kept connection: it adds 0.02 ms to a measurement, a library 0.3.

Not here: what is asked (`functions`), and many connections at once (`load`, `together`).
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """`ms` from the first byte sent to the last received."""

    status: int
    headers: dict[str, str]
    body: bytes
    ms: float

    def json(self) -> Any:
        return json.loads(self.body)


def request_bytes(method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{k}: {v}" for k, v in headers.items())]
    if body or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


class Http:
    """One connection, made at the first request and again when the other side closed it. Not for several threads."""

    def __init__(self, port: int, key: str | None = None) -> None:
        self.port = port
        self._headers = {"X-Api-Key": key} if key else {}
        self._sock: socket.socket | None = None

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def connect(self) -> None:
        """Idempotent; a connection that the other side has closed is made anew."""
        if self._sock is not None:
            self._sock.setblocking(False)
            try:
                closed = self._sock.recv(1, socket.MSG_PEEK) == b""
            except BlockingIOError:
                closed = False
            if closed:
                self.close()
        if self._sock is None:
            self._sock = socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.settimeout(TIMEOUT_S)

    def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
        """Raises OSError where the connection breaks."""
        self.connect()
        assert self._sock is not None
        data = request_bytes(method, path, body, {**self._headers, **(headers or {})})
        begun = time.perf_counter()
        self._sock.sendall(data)
        head, _, rest = self._until(b"", b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = dict(_field(line) for line in lines[1:])
        if fields.get("transfer-encoding", "").lower() == "chunked":
            answer = self._chunks(rest)
        else:
            answer = self._exactly(rest, int(fields.get("content-length", "0")))[0]
        ms = (time.perf_counter() - begun) * 1e3
        return Answer(int(lines[0].split()[1]), fields, answer, ms)

    def api(self, method: str, path: str, value: Any = None, headers: dict[str, str] | None = None) -> Any:
        """A management call with JSON both ways. Raises CallFailed for anything but success."""
        body = b"" if value is None else json.dumps(value).encode()
        answer = self.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
        if answer.status >= 400:
            raise CallFailed(f"{method} {path}: {answer.status} {answer.body.decode(errors='replace')[:2000]}")
        return answer.json() if answer.body else None

    def _receive(self) -> bytes:
        assert self._sock is not None
        piece = self._sock.recv(262_144)
        if not piece:
            self.close()
            raise ConnectionError("the connection was closed in the middle of an answer")
        return piece

    def _until(self, have: bytes, mark: bytes) -> tuple[bytes, bytes, bytes]:
        while mark not in have:
            have += self._receive()
        return have.partition(mark)

    def _exactly(self, have: bytes, size: int) -> tuple[bytes, bytes]:
        while len(have) < size:
            have += self._receive()
        return have[:size], have[size:]

    def _chunks(self, have: bytes) -> bytes:
        whole = b""
        while True:
            line, _, have = self._until(have, b"\r\n")
            size = int(line.split(b";")[0], 16)
            piece, have = self._exactly(have, size + 2)
            whole += piece[:-2]
            if size == 0:
                return whole


class CallFailed(Exception):
    """A call that a benchmark depends on was not answered as it has to be."""


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()
