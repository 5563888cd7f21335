"""The name server of the containers: sockets on the gateway's address, which the spawner bound and handed over.

Who asks is known by the address that the question came from, which the rules let nobody forge. Not here: what is
answered (`zone`), and what others are asked (`upstream`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable

import dns.exception
import dns.message
import dns.rcode

from runtime.network.api import Asker, Directory
from runtime.network.upstream import Busy, Upstream
from runtime.network.zone import Zone, failed

log = logging.getLogger(__name__)

STREAM_IDLE_S = 5.0
STREAMS_AT_ONCE = 256
STREAMS_EACH = 8


class Responder:
    """`may_ask(container_id)` says whether questions that are not ours may be passed on for it."""

    def __init__(self, directory: Directory, zone: Zone, upstream: Upstream, may_ask: Callable[[str], bool]) -> None:
        self._directory = directory
        self._zone = zone
        self._upstream = upstream
        self._may_ask = may_ask
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: dict[str, int] = {}
        self._datagrams: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def open(self, datagrams: socket.socket, stream: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._datagrams, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self._arrived), sock=datagrams)
        self._server = await asyncio.start_server(self._stream, sock=stream)

    async def close(self) -> None:
        if self._datagrams is not None:
            self._datagrams.close()
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def listening(self) -> bool:
        return self._server is not None and self._server.is_serving()

    async def respond(self, data: bytes, address: str, *, stream: bool) -> bytes | None:
        """The answer to a message; None where it is not worth one."""
        try:
            query = dns.message.from_wire(data, ignore_trailing=True)
        except (dns.exception.DNSException, ValueError):
            return None
        if query.flags & 0x8000:  # an answer: two name servers must not keep each other busy
            return None
        asker = self._directory.asker(address)
        if asker is None:
            return failed(query, dns.rcode.REFUSED).to_wire()
        response = self._zone.answer(query, asker)
        if response is None:
            return await self._passed_on(data, query, asker, address, stream)
        return response.to_wire()

    async def _passed_on(
        self, data: bytes, query: dns.message.Message, asker: Asker, address: str, stream: bool
    ) -> bytes:
        if not self._may_ask(asker.container_id):  # a name can carry out whatever one likes
            return failed(query, dns.rcode.REFUSED).to_wire()
        try:
            answer = await self._upstream.ask(data, address, stream=stream)
        except Busy:
            answer = None
        return answer if answer is not None else failed(query, dns.rcode.SERVFAIL).to_wire()

    def _arrived(self, data: bytes, peer: tuple[str, int]) -> None:
        if len(self._tasks) >= 4 * STREAMS_AT_ONCE:
            return  # it asks again
        self._own(asyncio.get_running_loop().create_task(self._datagram(data, peer), name="dns question"))

    async def _datagram(self, data: bytes, peer: tuple[str, int]) -> None:
        answer = await self.respond(data, peer[0], stream=False)
        if answer is not None and self._datagrams is not None and not self._datagrams.is_closing():
            self._datagrams.sendto(answer, peer)

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._own(task)
        address = str(writer.get_extra_info("peername")[0])
        count = self._streams.get(address, 0)
        try:
            if count >= STREAMS_EACH or sum(self._streams.values()) >= STREAMS_AT_ONCE:
                return
            self._streams[address] = count + 1
            with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, OSError):
                await self._questions(reader, writer, address)
        finally:
            if address in self._streams and count < STREAMS_EACH:
                self._streams[address] -= 1
                if self._streams[address] <= 0:
                    del self._streams[address]
            writer.close()

    async def _questions(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> None:
        while True:
            async with asyncio.timeout(STREAM_IDLE_S):
                data = await reader.readexactly(struct.unpack("!H", await reader.readexactly(2))[0])
            answer = await self.respond(data, address, stream=True)
            if answer is None:
                return
            writer.write(struct.pack("!H", len(answer)) + answer)
            async with asyncio.timeout(STREAM_IDLE_S):
                await writer.drain()

    def _own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a question of DNS failed", exc_info=error)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, arrived: Callable[[bytes, tuple[str, int]], None]) -> None:
        self._arrived = arrived

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._arrived(data, addr)
