"""Keeps instances of a function busy by requests that sleep in it, so that the next request finds none that is free.

Not here: the function's side of it, which sleeps for `busy_s` of its event.
"""

from __future__ import annotations

import json
import socket
import time
from types import TracebackType

from benchmarks.functions import check
from benchmarks.together import complete
from benchmarks.wire import Answer, CallFailed, Http, request_bytes

BEGUN_TIMEOUT_S = 30.0


class Occupier:
    """A context of `busy_s` seconds: all that it occupied is free again at its end, and answered."""

    def __init__(self, port: int, key: str, function: str, busy_s: float) -> None:
        self._port, self._key, self._function = port, key, function
        self._socks: list[socket.socket] = []
        self._busy_s = busy_s
        self._end = time.monotonic() + busy_s

    def __enter__(self) -> Occupier:
        return self

    def occupy_one_more(self) -> None:
        """Returns when as many instances are busy as were asked for, and none else is there."""
        sock = socket.create_connection(("127.0.0.1", self._port), self._busy_s + BEGUN_TIMEOUT_S)
        self._socks.append(sock)
        headers = {"X-Api-Key": self._key, "Content-Type": "application/json"}
        body = json.dumps({"busy_s": max(0.1, self._end - time.monotonic())}).encode()
        sock.sendall(request_bytes("POST", f"/fn/{self._function}", body, headers))
        http = Http(self._port, self._key)
        deadline = time.monotonic() + BEGUN_TIMEOUT_S
        record = http.api("GET", f"/api/functions/by-name/{self._function}")
        while http.api("GET", f"/api/functions/{record['id']}/pool")["busy_count"] < len(self._socks):
            if time.monotonic() > deadline:
                raise CallFailed(f"{self._function}: {len(self._socks)} instances could not be kept busy")
            time.sleep(0.005)
        http.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in self._socks:
            with sock:
                if kind is None:
                    self._answered(sock)

    def _answered(self, sock: socket.socket) -> None:
        raw = b""
        while not complete(raw):
            piece = sock.recv(65_536)
            if not piece:
                raise CallFailed(f"{self._function}: a request that kept it busy was not answered")
            raw += piece
        check(self._function, Answer(int(raw.split()[1]), {}, raw, 0.0), None)
