"""Services that containers publish, on a running platform: who gets in, what passes, and when they end.

Not here: which headers pass (`tests/unit/test_gateway_forwarding.py`).
"""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from quilt_fn.client import Client
from quilt_fn.errors import ServiceNotFound
from tests.integration.live import Live, wait_for

SERVER = """
import asyncio, base64, hashlib
async def serve(reader, writer):
    head = (await reader.readuntil(b"\\r\\n\\r\\n")).decode()
    line, *rest = head.split("\\r\\n")
    method, path, _ = line.split(" ")
    headers = {h.split(":")[0].lower(): h.split(":", 1)[1].strip() for h in rest if ":" in h}
    if headers.get("upgrade") == "websocket":
        both = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(both.encode()).digest())
        chosen = headers.get("sec-websocket-protocol", "").split(",")[-1].strip()
        more = f"Sec-WebSocket-Protocol: {chosen}\\r\\n".encode() if chosen else b""
        writer.write(b"HTTP/1.1 101 S\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n")
        writer.write(b"Sec-WebSocket-Accept: " + accept + b"\\r\\n" + more + b"\\r\\n")
        while True:
            first, size = await reader.readexactly(2)
            size &= 127
            mask = await reader.readexactly(4)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(await reader.readexactly(size)))
            if first & 15 == 8:
                writer.write(bytes([0x88, len(data)]) + data); break
            writer.write(bytes([first, len(data)]) + data[::-1])
    elif path.startswith("/stream"):
        writer.write(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n")
        if headers.get("transfer-encoding") == "chunked":
            while (size := int(await reader.readline(), 16)):
                data = await reader.readexactly(size); await reader.readline()
                writer.write(b"%x\\r\\n%s\\r\\n" % (len(data), data.upper())); await writer.drain()
            await reader.readline()
        writer.write(b"0\\r\\n\\r\\n")
    elif path.startswith("/half"):
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 100\\r\\n\\r\\nhalf")
    else:
        body = (method + " " + path + "\\n" + "\\n".join(f"{k}: {v}" for k, v in sorted(headers.items()))).encode()
        if "content-length" in headers:
            body += b"\\n" + await reader.readexactly(int(headers["content-length"]))
        writer.write(b"HTTP/1.1 200 OK\\r\\nSet-Cookie: a=1; Path=/\\r\\n")
        writer.write(b"Content-Length: %d\\r\\n\\r\\n" % len(body) + body)
    await writer.drain(); writer.close()
async def main():
    async with await asyncio.start_server(serve, "0.0.0.0", 8000) as server: await server.serve_forever()
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def web(live: Live) -> Iterator[dict[str, Any]]:
    """A container that serves on port 8000, and what it publishes."""
    made = live.ok("POST", "/api/containers", {"name": "web", "command": ["/usr/bin/python3", "-c", SERVER]})
    path = f"/api/containers/{made['container_id']}"
    made["token"] = live.ok("POST", path + "/services", {"name": "app", "target_port": 8000})
    made["open"] = live.ok("POST", path + "/services", {"name": "open", "target_port": 8000, "auth_mode": "public"})
    wait_for(lambda: live.ask("GET", made["open"]["path"], key=None).status == 200, "the server to listen")
    yield made
    live.ok("DELETE", path)


def test_a_service_is_reached_with_its_token_and_never_sees_it(live: Live, web: dict[str, Any]) -> None:
    path, token = web["token"]["path"], web["token"]["token"]
    assert live.ask("GET", path, key=None).code == "UNAUTHENTICATED"
    assert live.ask("GET", path, key=None, headers={"X-Quilt-Token": "lnt_" + "0" * 32}).code == "FORBIDDEN"
    assert live.ask("GET", path).code == "UNAUTHENTICATED", "an API key is no service's token"
    by_query = live.ask("GET", f"{path}a%2Fb?x=1&token={token}", key=None)
    cookie = by_query.headers["set-cookie"]
    answers = [
        by_query,
        live.ask("GET", path + "a%2Fb?x=1", headers={"X-Quilt-Token": token}),
        live.ask("GET", path + "a%2Fb?x=1", key=None, headers={"Authorization": f"Bearer {token}"}),
        live.ask(
            "GET", path + "a%2Fb?x=1", key=None, headers={"Cookie": f"quilt_linx_{web['token']['service_id']}={token}"}
        ),
    ]
    assert "HttpOnly" in cookie or "a=1" in cookie
    for answer in answers:
        text = answer.body.decode()
        assert answer.status == 200 and text.startswith("GET /a%2Fb?x=1\n"), answer.body
        assert token not in text and live.key not in text
        assert f"x-forwarded-prefix: {path.rstrip('/')}" in text and "x-forwarded-for: 127.0.0.1" in text
    listed = live.ok("GET", f"/api/containers/{web['container_id']}/services")["services"]
    assert {s["name"] for s in listed} == {"app", "open"} and all(s["token"] is None for s in listed)
    assert token not in live.redis("HGETALL", "quilt:services")


def test_bodies_pass_both_ways_and_a_half_answer_is_not_taken_for_a_whole(live: Live, web: dict[str, Any]) -> None:
    path = web["open"]["path"]
    sent = live.ask("POST", path + "form", b"some bytes", key=None)
    assert sent.body.endswith(b"some bytes") and "; Path=" + path in sent.headers["set-cookie"]
    assert live.ask("GET", path, key=None, headers={"X-Request-Id": "mine"}).headers["x-request-id"] == "mine"
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        live.ask("GET", path + "half", key=None)
    assert live.ask("GET", path.rstrip("/") + "?a=b", key=None).headers["location"] == path + "?a=b"


async def test_streams_and_websockets_pass_as_they_come(live: Live, web: dict[str, Any]) -> None:
    base, path = f"http://127.0.0.1:{live.port}", web["open"]["path"]
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"one", b"two"):
            yield piece
            assert await asyncio.wait_for(heard.get(), 10) == piece.upper(), (
                "the answer came before the next piece went"
            )

    async with aiohttp.ClientSession() as session:
        async with session.post(base + path + "stream", data=pieces()) as response:
            async for chunk in response.content.iter_any():
                heard.put_nowait(chunk)
            assert response.status == 200
        async with session.ws_connect(base + path + "ws", protocols=("other", "chat")) as socket:
            assert socket.protocol == "chat"
            await socket.send_str("abc")
            assert await socket.receive_str() == "cba"
            await socket.send_bytes(b"\x00\x01")
            assert await socket.receive_bytes() == b"\x01\x00"
            await socket.close(code=4001)
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(base + web["token"]["path"] + "ws")


def test_services_end_with_their_time_and_their_container(live: Live) -> None:
    made = live.ok("POST", "/api/containers", {"name": "brief"})
    path = f"/api/containers/{made['container_id']}/services"
    dead = live.ok("POST", path, {"name": "dead", "target_port": 9, "auth_mode": "public"})
    silent = live.ask("GET", dead["path"], key=None)
    assert silent.status == 503 and "nothing listens on port 9" in silent.json()["error"]
    assert live.ask("POST", path, {"name": "dead", "target_port": 10}).code == "NAME_TAKEN"
    for wrong in ({"target_port": 0}, {"target_port": 70_000}, {"auth_mode": "none"}, {"ttl_secs": 0}, {"name": "A b"},
                  {"host": "127.0.0.1"}):  # fmt: skip
        assert live.ask("POST", path, {"name": "x", "target_port": 1, **wrong}).status == 422
    soon = live.ok("POST", path, {"name": "soon", "target_port": 9, "auth_mode": "public", "ttl_secs": 0.05})
    wait_for(lambda: live.ask("GET", soon["path"], key=None).code == "SERVICE_NOT_FOUND", "its time")
    live.kill("node")
    assert live.ask("GET", dead["path"], key=None).status == 503
    live.ok("POST", f"/api/containers/{made['container_id']}/stop", {"timeout_s": 0})
    assert "does not run" in live.ask("GET", dead["path"], key=None).json()["error"]
    assert live.ask("DELETE", f"{path}/{dead['service_id']}").status == 204
    assert live.ask("DELETE", f"{path}/{dead['service_id']}").code == "SERVICE_NOT_FOUND"
    live.ok("POST", path, {"name": "again", "target_port": 9})
    live.ok("DELETE", f"/api/containers/{made['container_id']}")
    wait_for(lambda: live.redis("EXISTS", "quilt:services").strip() == "0" or made["container_id"] not in
             live.redis("HGETALL", "quilt:services"), "the last of its services to go")  # fmt: skip


def test_the_sdk_publishes_and_withdraws(live: Live, web: dict[str, Any]) -> None:
    client = Client(url=f"http://127.0.0.1:{live.port}", api_key=live.key)
    made = client.services.publish("web", "sdk", 8000)
    assert live.ask("GET", f"{made.path}?token={made.token}", key=None).status == 200
    assert made.service_id in [each.service_id for each in client.services.list("web")]
    client.services.withdraw("web", "sdk")
    assert live.ask("GET", made.path, key=None).code == "SERVICE_NOT_FOUND"
    with pytest.raises(ServiceNotFound):
        client.services.withdraw("web", "sdk")
    assert client.network.get("web").ip_address == web["ip_address"]
    assert client.network.set_egress("web", False).egress is False
    assert client.network.diagnose("web").healthy
    assert client.network.set_egress(web["container_id"], True).egress is True
    assert [each.name for each in client.network.names()] == ["web"]
    assert [each.ip_address for each in client.network.allocations()] == [web["ip_address"]]
    client.close()
