"""Many requests at once, each on a connection of its own that was there before: when each was answered.

Not here: a load that goes on (`load`).
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Sequence

from benchmarks.functions import Function, check
from benchmarks.wire import Answer, request_bytes

TIMEOUT_S = 60.0


def complete(data: bytes) -> bool:
    """Whether `data` is a whole HTTP answer with a Content-Length."""
    head, mark, body = data.partition(b"\r\n\r\n")
    if not mark:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return True


def send_all(socks: Sequence[socket.socket], data: bytes, done: Callable[[bytes], bool]) -> list[tuple[float, bytes]]:
    """(milliseconds since the first was sent, answer) for each socket. Raises TimeoutError, ConnectionError."""
    answers = [b""] * len(socks)
    took = [0.0] * len(socks)
    with selectors.DefaultSelector() as selector:
        begun = time.perf_counter()
        for index, sock in enumerate(socks):
            sock.sendall(data)
            selector.register(sock, selectors.EVENT_READ, index)
        waiting = len(socks)
        while waiting:
            ready = selector.select(max(0.0, begun + TIMEOUT_S - time.perf_counter()))
            if not ready:
                raise TimeoutError(f"{waiting} of {len(socks)} requests were not answered in {TIMEOUT_S:g} s")
            for key, _ in ready:
                index, sock = key.data, socks[key.data]
                piece = sock.recv(65_536)
                if not piece:
                    raise ConnectionError("a connection was closed before its answer")
                answers[index] += piece
                if done(answers[index]):
                    took[index] = (time.perf_counter() - begun) * 1e3
                    selector.unregister(sock)
                    waiting -= 1
    return list(zip(took, answers, strict=True))


class Crowd:
    """`size` kept connections to one platform."""

    def __init__(self, port: int, key: str, size: int) -> None:
        self._key = key
        self.socks = [socket.create_connection(("127.0.0.1", port), TIMEOUT_S) for _ in range(size)]

    def close(self) -> None:
        for sock in self.socks:
            sock.close()

    def call(self, function: Function, body: bytes) -> list[Answer]:
        """All at once. Raises CallFailed where one of them failed."""
        headers = {"X-Api-Key": self._key, "Content-Type": "application/json"}
        data = request_bytes("POST", f"/fn/{function.name}", body, headers)
        answers = []
        for ms, raw in send_all(self.socks, data, complete):
            head, _, content = raw.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            fields = {n.strip().lower(): v.strip() for n, _, v in (line.partition(":") for line in lines[1:])}
            answer = Answer(int(lines[0].split()[1]), fields, content, ms)
            check(function.name, answer, None)
            answers.append(answer)
        return answers
