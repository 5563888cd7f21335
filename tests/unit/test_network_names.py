"""What the containers' name server answers, to whom: values in, messages out."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import struct
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.network.api import Asker
from runtime.network.responder import Responder
from runtime.network.upstream import EACH, Busy, Upstream, answers
from runtime.network.zone import Zone

SUBNET = ipaddress.IPv4Network("10.42.0.0/16")
PLACES = {("acme", "db"): "10.42.0.2", ("acme", "web"): "10.42.0.3", ("rival", "db"): "10.42.0.9"}


class FakeDirectory:
    def asker(self, address: str) -> Asker | None:
        found = [tenant for (tenant, _), theirs in PLACES.items() if theirs == address]
        return Asker(found[0], "ctr_" + address) if found else None

    def address_of(self, tenant_id: str, name: str) -> str | None:
        return PLACES.get((tenant_id, name))

    def name_at(self, tenant_id: str, address: str) -> str | None:
        return next((name for (tenant, name), at in PLACES.items() if tenant == tenant_id and at == address), None)


class FakeUpstream(Upstream):
    """Answers every question with its own bytes, as an answer; None where `silent`."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes] = []
        self.silent = False

    async def ask(self, query: bytes, asker: str, *, stream: bool) -> bytes | None:
        self.asked.append(query)
        return None if self.silent else dns.message.make_response(dns.message.from_wire(query)).to_wire()


def responder(upstream: Upstream | None = None, egress: bool = True) -> Responder:
    directory = FakeDirectory()
    return Responder(directory, Zone(directory, SUBNET), upstream or FakeUpstream(), lambda _container_id: egress)


async def asked(who: Responder, name: str, kind: str = "A", source: str = "10.42.0.3") -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    wire = await who.respond(query.to_wire(), source, stream=False)
    assert wire is not None
    answer = dns.message.from_wire(wire)
    assert query.is_response(answer)
    return answer


def texts(answer: dns.message.Message) -> list[str]:
    return [str(record) for rrset in answer.answer for record in rrset]


@pytest.mark.parametrize("name", ["db.", "db.quilt.internal.", "DB.Quilt.Internal."])
async def test_each_tenant_finds_its_own(name: str) -> None:
    who = responder()
    assert texts(await asked(who, name, source="10.42.0.3")) == ["10.42.0.2"]
    assert texts(await asked(who, name, source="10.42.0.9")) == ["10.42.0.9"]


async def test_a_name_that_is_anothers_is_no_name() -> None:
    who = responder()
    assert (await asked(who, "web.quilt.internal.", source="10.42.0.9")).rcode() == dns.rcode.NXDOMAIN
    assert (await asked(who, "nobody.", source="10.42.0.9")).rcode() == dns.rcode.NXDOMAIN
    assert (await asked(who, "9.0.42.10.in-addr.arpa.", "PTR")).rcode() == dns.rcode.NXDOMAIN
    assert texts(await asked(who, "2.0.42.10.in-addr.arpa.", "PTR")) == ["db.quilt.internal."]


async def test_a_name_without_such_a_record_is_there() -> None:
    answer = await asked(responder(), "db.quilt.internal.", "AAAA")
    assert answer.rcode() == dns.rcode.NOERROR and not answer.answer and answer.flags & dns.flags.AA
    assert (await asked(responder(), "quilt.internal.", "A")).rcode() == dns.rcode.NOERROR


async def test_other_names_are_passed_on_unless_egress_is_off() -> None:
    upstream = FakeUpstream()
    assert (await asked(responder(upstream), "example.org.")).rcode() == dns.rcode.NOERROR
    assert len(upstream.asked) == 1
    assert (await asked(responder(upstream, egress=False), "example.org.")).rcode() == dns.rcode.REFUSED
    assert texts(await asked(responder(upstream, egress=False), "db.")) == ["10.42.0.2"]
    assert len(upstream.asked) == 1
    upstream.silent = True
    assert (await asked(responder(upstream), "example.org.")).rcode() == dns.rcode.SERVFAIL


async def test_whoever_is_no_container_is_refused() -> None:
    assert (await asked(responder(), "db.", source="10.42.0.77")).rcode() == dns.rcode.REFUSED
    assert (await asked(responder(), "example.org.", source="192.0.2.1")).rcode() == dns.rcode.REFUSED


async def test_an_answer_is_not_answered() -> None:
    reply = dns.message.make_response(dns.message.make_query("db.", "A")).to_wire()
    assert await responder().respond(reply, "10.42.0.3", stream=False) is None


@given(st.binary(max_size=600))
@settings(max_examples=300, deadline=None)
def test_any_bytes_get_an_answer_or_none(data: bytes) -> None:
    found = asyncio.run(responder().respond(data, "10.42.0.3", stream=False))
    assert found is None or dns.message.from_wire(found, ignore_trailing=True).flags & dns.flags.QR


def test_an_answer_is_one_to_its_question() -> None:
    query = dns.message.make_query("example.org.", "A")
    good = dns.message.make_response(query).to_wire()
    other = dns.message.make_response(dns.message.make_query("evil.example.", "A", id=query.id)).to_wire()
    assert answers(query.to_wire(), good)
    assert not answers(query.to_wire(), other)
    assert not answers(query.to_wire(), b"\0\0" + good[2:] if query.id else b"\1\1" + good[2:])
    assert not answers(query.to_wire(), b"nonsense")


class Server:
    """A name server on loopback that answers by `reply`, by both transports."""

    def __init__(self) -> None:
        self.port = 0

    async def __aenter__(self) -> Server:
        loop = asyncio.get_running_loop()
        outer = self

        class Protocol(asyncio.DatagramProtocol):
            transport: Any

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                self.transport.sendto(b"\0\0 forged", addr)
                self.transport.sendto(outer.reply(data), addr)

        async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            data = await reader.readexactly(struct.unpack("!H", await reader.readexactly(2))[0])
            reply = self.reply(data)
            writer.write(struct.pack("!H", len(reply)) + reply)
            await writer.drain()
            writer.close()

        while True:  # both at one port: the second may be somebody else's just now
            self.transport, _ = await loop.create_datagram_endpoint(Protocol, ("127.0.0.1", 0))
            self.port = self.transport.get_extra_info("sockname")[1]
            try:
                self.server = await asyncio.start_server(stream, "127.0.0.1", self.port)
            except OSError as error:
                self.transport.close()
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            return self

    def reply(self, data: bytes) -> bytes:
        return dns.message.make_response(dns.message.from_wire(data)).to_wire()

    async def __aexit__(self, *_: object) -> None:
        self.transport.close()
        self.server.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_the_machines_own_name_server_is_asked(tmp_path: Path, stream: bool) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("search example.org\nnameserver 127.0.0.1\n")
    query = dns.message.make_query("example.org.", "A")
    async with Server() as server:
        found = await Upstream(conf, server.port).ask(query.to_wire(), "10.42.0.3", stream=stream)
    assert found is not None and query.is_response(dns.message.from_wire(found))


async def test_nobody_to_ask_is_no_answer(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        free = sock.getsockname()[1]
    conf = tmp_path / "resolv.conf"
    assert await Upstream(conf).ask(b"", "a", stream=False) is None
    conf.write_text("nameserver 127.0.0.1\n")
    query = dns.message.make_query("example.org.", "A").to_wire()
    assert await Upstream(conf, free).ask(query, "a", stream=False) is None, "it refuses"


async def test_one_container_has_a_bounded_share(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 127.0.0.1\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        upstream = Upstream(conf, silent.getsockname()[1])
        query = dns.message.make_query("example.org.", "A").to_wire()
        asking = [asyncio.ensure_future(upstream.ask(query, "greedy", stream=False)) for _ in range(EACH)]
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await upstream.ask(query, "greedy", stream=False)
        other = asyncio.ensure_future(upstream.ask(query, "modest", stream=False))
        await asyncio.sleep(0)
        assert not other.done()
        for task in (*asking, other):
            task.cancel()
        await asyncio.gather(*asking, other, return_exceptions=True)
        assert upstream.under_way == 0
