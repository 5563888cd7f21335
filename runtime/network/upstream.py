"""Ask this machine's own name servers what is not ours: bounded in number and in time, and only what was asked comes
back.

Not here: which questions these are (`zone`), and any cache: the machine's own resolver has one.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
from pathlib import Path

import dns.exception
import dns.message

ATTEMPT_S = 2.0
SERVERS = 3
AT_ONCE = 256
EACH = 32
"""Questions of one container that may be under way, so that none takes the others' share."""


class Busy(Exception):
    """Too many questions are under way."""


class Upstream:
    """`resolv_conf` is read anew at each question, as a resolver does: it is short, and may change."""

    def __init__(self, resolv_conf: Path = Path("/etc/resolv.conf"), port: int = 53) -> None:
        self._file = resolv_conf
        self._port = port
        self._under_way: dict[str, int] = {}

    @property
    def under_way(self) -> int:
        """Questions that wait for an answer."""
        return sum(self._under_way.values())

    def servers(self) -> list[str]:
        with contextlib.suppress(OSError):
            lines = [line.split() for line in self._file.read_text().splitlines()]
            return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"][:SERVERS]
        return []

    async def ask(self, query: bytes, asker: str, *, stream: bool) -> bytes | None:
        """The answer of the first server that gives one, under the query's own id; None where none does.

        Raises Busy.
        """
        if self._under_way.get(asker, 0) >= EACH or self.under_way >= AT_ONCE:
            raise Busy
        self._under_way[asker] = self._under_way.get(asker, 0) + 1
        try:
            for server in await asyncio.to_thread(self.servers):
                with contextlib.suppress(OSError, TimeoutError, EOFError):
                    async with asyncio.timeout(ATTEMPT_S):
                        return await (_by_stream if stream else _by_datagram)(server, self._port, query)
            return None
        finally:
            self._under_way[asker] -= 1
            if not self._under_way[asker]:
                del self._under_way[asker]


async def _by_datagram(server: str, port: int, query: bytes) -> bytes:
    """From a port and under an id that nobody can guess; what else arrives there is not the answer."""
    loop = asyncio.get_running_loop()
    ours = secrets.token_bytes(2) + query[2:]
    with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((server, port))  # only its answers arrive
        await loop.sock_sendall(sock, ours)
        while True:
            answer = await loop.sock_recv(sock, 65_535)
            if answers(ours, answer):
                return query[:2] + answer[2:]


async def _by_stream(server: str, port: int, query: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(server, port)
    try:
        writer.write(struct.pack("!H", len(query)) + query)
        await writer.drain()
        answer = await reader.readexactly(struct.unpack("!H", await reader.readexactly(2))[0])
        if not answers(query, answer):
            raise EOFError
        return answer
    finally:
        writer.close()


def answers(query: bytes, answer: bytes) -> bool:
    """Whether `answer` is one to `query`: its id, and its question."""
    try:
        asked = dns.message.from_wire(query, question_only=True, ignore_trailing=True)
        found = dns.message.from_wire(answer, question_only=True, ignore_trailing=True)
    except dns.exception.DNSException:
        return False
    return asked.is_response(found)
