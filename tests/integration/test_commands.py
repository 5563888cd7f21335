"""exec, stream and terminals over HTTP, in a real container's init: what clients send, see, and do wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from pool.commands import Commands
from pool.terminals import Terminals
from quilt_fn.errors import ContainerNotFound, ContainerNotRunning
from quilt_fn.model.container import ExecResult
from runtime.containers.ends import MemoryKills
from runtime.containers.link import InitLink
from tests.fakes.calls import until
from tests.fakes_gateway.http import Http, serving
from tests.fakes_gateway.platform import KEY, OTHER_KEY, FakePlatform
from tests.integration.quilt_init import wait_for
from tests.integration.serve import Served
from tests.slowness import patience

EXEC, STREAM = "/api/containers/ctr_1/exec", "/api/containers/ctr_1/stream"
SESSIONS = "/api/terminal/sessions"


class OneContainer:
    """`ctr_1` of tenant t1, which runs; `ctr_2`, which does not."""

    def __init__(self, link: InitLink) -> None:
        self.container_id, self.tenant_id = "ctr_1", "t1"
        self.pid, self.address, self.started_at = 0, None, 0.0
        self.link: InitLink | None = link
        self.memory = MemoryKills(lambda: 0)

    def running(self, tenant_id: str, container_id: str) -> OneContainer:
        if tenant_id != self.tenant_id or container_id not in ("ctr_1", "ctr_2"):
            raise ContainerNotFound(f"there is no container {container_id!r}")
        if container_id == "ctr_2":
            raise ContainerNotRunning("the container is exited", details={"state": "exited"})
        return self

    def environment(self, tenant_id: str, container_id: str) -> dict[str, str]:
        return {"OWN": "1"}

    def working_directory(self, tenant_id: str, container_id: str) -> str:
        return "/usr"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    made = await asyncio.to_thread(Served)
    yield made
    made.end()


@pytest.fixture
async def platform(served: Served) -> AsyncIterator[FakePlatform]:
    made = FakePlatform()
    link = served.link()
    made.commands = Commands(OneContainer(link))
    made.terminals = Terminals(OneContainer(link))
    yield made
    await made.terminals.close()
    made.commands.close()
    link.close()


@pytest.fixture
async def http(platform: FakePlatform) -> AsyncIterator[Http]:
    async with serving(platform, max_body_mb=8) as client:
        yield client


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def frames_of(body: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in body.splitlines()]


def joined(frames: list[dict[str, Any]], kind: str) -> bytes:
    return b"".join(base64.b64decode(frame["data_b64"]) for frame in frames if frame["type"] == kind)


# --- exec -------------------------------------------------------------------------------------------------------------


async def test_exec(http: Http) -> None:
    script = "cat; echo $OWN $MORE; pwd; echo err >&2; exit 3"
    reply = await http(
        "POST", EXEC, json={"command": ["sh", "-c", script], "stdin": "in é\n", "environment": {"MORE": "2"}}
    )
    value = reply.json
    assert reply.status == 200 and value.pop("execution_time_ms") > 0
    assert value == {
        "container_id": "ctr_1", "exit_code": 3, "exit_reason": "exited", "stdout": "in é\n1 2\n/usr\n",
        "stderr": "err\n", "stdout_b64": None, "stderr_b64": None, "timed_out": False, "truncated": False,
    }  # fmt: skip


async def test_exec_of_bytes_that_are_no_text(http: Http) -> None:
    reply = await http("POST", EXEC, json={"command": ["sh", "-c", "printf 'a\\377\\000b'; echo plain >&2"]})
    assert (reply.json["stdout"], reply.json["stderr"]) == ("a\ufffd\x00b", "plain\n")
    assert (base64.b64decode(reply.json["stdout_b64"]), reply.json["stderr_b64"]) == (b"a\xff\0b", None)


async def test_exec_of_all_bytes_there_and_back(http: Http) -> None:
    every = bytes(range(256)) * 500
    reply = await http("POST", EXEC, json={"command": ["cat"], "stdin_data": b64(every)})
    assert ExecResult.model_validate(reply.json).stdout_bytes == every
    wrong = await http("POST", EXEC, json={"command": ["cat"], "stdin_data": "%"})
    assert (wrong.status, wrong.json["details"]["fields"][0]["field"]) == (422, "stdin_data")
    both = await http("POST", EXEC, json={"command": ["cat"], "stdin_data": "", "stdin": "a"})
    assert (both.status, "not both" in both.json["error"]) == (422, True)


async def test_a_character_at_the_limit_does_not_make_bytes_of_a_text(http: Http) -> None:
    script = "yes éé | tr -d '\\n' | head -c 1500001"
    reply = await http("POST", EXEC, json={"command": ["sh", "-c", "printf x; " + script]})
    assert reply.json["truncated"] and reply.json["stdout_b64"] is None
    assert reply.json["stdout"] == "x" + "é" * ((1 << 19) - 1)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"command": "ls -l"}, 422),
        ({"command": []}, 422),
        ({"command": ["a\0b"]}, 422),
        ({}, 422),
        ({"command": ["true"], "workdir": "relative"}, 422),
        ({"command": ["true"], "timeout_ms": 0}, 422),
        ({"command": ["true"], "timeout_ms": 600_001}, 422),
        ({"command": ["true"], "user": "a b"}, 422),
        ({"command": ["true"], "bogus": 1}, 422),
        ({"command": ["true"] + ["x" * 100_000] * 2}, 422),
    ],
)
async def test_wrong_bodies(http: Http, body: dict[str, Any], status: int) -> None:
    for path in (EXEC,) if "workdir" in body or "timeout_ms" in body else (EXEC, STREAM):
        reply = await http("POST", path, json=body)
        assert (reply.status, reply.code) == (status, "INVALID_VALUE"), path


async def test_whose_container_and_in_which_state(http: Http) -> None:
    for path in (EXEC, STREAM):
        assert (await http("POST", path, json={"command": ["true"]}, key=None)).status == 401
        other = await http("POST", path, json={"command": ["true"]}, key=OTHER_KEY)
        assert (other.status, other.code) == (404, "CONTAINER_NOT_FOUND")
        stopped = await http("POST", path.replace("ctr_1", "ctr_2"), json={"command": ["true"]})
        assert (stopped.status, stopped.code, stopped.json["details"]) == (
            409, "CONTAINER_NOT_RUNNING", {"state": "exited"},
        )  # fmt: skip


async def test_the_container_goes_during_an_exec(http: Http, served: Served) -> None:
    waiting = asyncio.create_task(http("POST", EXEC, json={"command": ["sleep", "100"]}))
    await asyncio.to_thread(wait_for, "the command", lambda: served.processes() > 1)
    os.kill(served.pid, signal.SIGKILL)
    reply = await asyncio.wait_for(waiting, 20)
    assert (reply.status, reply.code) == (409, "CONTAINER_NOT_RUNNING")


async def test_why_a_command_ended(http: Http) -> None:
    for script, timeout_ms, code, reason in (
        ("exit 137", 20_000, 137, "signalled"), ("kill -TERM $$", 20_000, 143, "signalled"),
        ("sleep 100", 100, 143, "timed_out"), ("exit 2", 20_000, 2, "exited"),
    ):  # fmt: skip
        body = {"command": ["sh", "-c", script], "timeout_ms": timeout_ms}
        done = (await http("POST", EXEC, json=body)).json
        last = frames_of((await http("POST", STREAM, json=body)).body)[-1]
        assert (done["exit_code"], done["exit_reason"]) == (last["code"], last["exit_reason"]) == (code, reason)
    for path in (EXEC, STREAM):
        reply = await http("POST", path, json={"command": ["no-such"]})
        assert frames_of(reply.body)[-1]["exit_reason"] == "not_started"


# --- stream -----------------------------------------------------------------------------------------------------------


async def test_stream(http: Http) -> None:
    body = {"command": ["sh", "-c", "cat; echo err >&2; exit 4"], "stdin_data": b64(b"\x00\xff")}
    reply = await http("POST", STREAM, json=body)
    frames = frames_of(reply.body)
    assert reply.status == 200 and reply.headers["Content-Type"] == "application/x-ndjson"
    assert frames[0]["type"] == "started" and frames[0]["container_id"] == "ctr_1" and frames[0]["pid"] > 1
    assert joined(frames, "stdout") == b"\x00\xff" and joined(frames, "stderr") == b"err\n"
    assert frames[-1]["type"] == "exit" and frames[-1]["code"] == 4


async def test_a_stream_that_cannot_start_and_one_out_of_time(http: Http) -> None:
    frames = frames_of((await http("POST", STREAM, json={"command": ["no-such"]})).body)
    assert [frame["type"] for frame in frames] == ["error", "exit"] and frames[1]["code"] == 127
    body = {"command": ["sh", "-c", "echo on; sleep 100"], "timeout_ms": 200}
    frames = frames_of((await http("POST", STREAM, json=body)).body)
    assert [frame["type"] for frame in frames] == ["started", "stdout", "timeout", "exit"]
    assert frames[-1]["code"] == 128 + 15 and frames[2]["elapsed_ms"] >= 200
    wrong = await http("POST", STREAM, json={"command": ["cat"], "stdin_data": "%"})
    assert (wrong.status, wrong.code) == (422, "INVALID_VALUE")


async def test_stdin_as_it_comes(http: Http) -> None:
    answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def lines() -> AsyncIterator[bytes]:
        yield json.dumps({"command": ["cat"]}).encode() + b"\n"
        for word in (b"one", b"two"):
            yield json.dumps({"data_b64": b64(word)}).encode() + b"\n"
            assert await answers.get() == word  # it came back before the next was sent

    seen = []
    headers = {"X-Api-Key": KEY, "Content-Type": "application/x-ndjson"}
    async with http.session.post(http.url + STREAM, data=lines(), headers=headers) as response:
        async for line in response.content:
            frame = orjson.loads(line)
            seen.append(frame["type"])
            if frame["type"] == "stdout":
                answers.put_nowait(base64.b64decode(frame["data_b64"]))
    assert seen == ["started", "stdout", "stdout", "exit"]
    bad = await http("POST", STREAM, data=b'{"command": ["cat"]}\n{"x": 1}\n', headers=headers)
    assert frames_of(bad.body)[-1]["type"] == "error"


async def test_a_slow_reader_slows_the_command_and_one_that_leaves_ends_it(http: Http, served: Served) -> None:
    body = {"command": ["sh", "-c", "yes | head -c 200000000; sleep 1000"]}
    response = await http.session.post(http.url + STREAM, json=body, headers={"X-Api-Key": KEY})
    await response.content.readline()

    def written() -> int:
        for pid in served.pids():
            try:
                with open(f"/proc/{pid}/cmdline") as cmdline, open(f"/proc/{pid}/io") as io:
                    if cmdline.read().startswith("head\0"):
                        return int(io.read().split("wchar: ")[1].split()[0])
            except OSError:
                continue
        return 0

    last = -1
    while (now := await asyncio.to_thread(written)) != last or now == 0:  # until it stands still
        last = now
        await asyncio.sleep(0.3)
    assert last < 40_000_000  # sockets and pipes are full, and nothing else holds what it writes
    response.close()
    await asyncio.to_thread(wait_for, "the command's end", lambda: served.processes() == 1)


# --- terminals --------------------------------------------------------------------------------------------------------


class Screen:
    """A websocket's client that collects what it is shown."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.shown = b""
        self.frames: list[dict[str, Any]] = []

    async def until(self, wanted: bytes | str) -> Any:
        """Until the bytes are shown, or a frame of that type has come."""
        async with asyncio.timeout(patience(20)):
            while True:
                if isinstance(wanted, bytes) and wanted in self.shown:
                    return self.shown
                for frame in self.frames:
                    if frame["type"] == wanted:
                        self.frames.remove(frame)
                        return frame
                message = await self.ws.receive()
                if message.type is aiohttp.WSMsgType.BINARY:
                    self.shown += message.data
                elif message.type is aiohttp.WSMsgType.TEXT:
                    self.frames.append(json.loads(message.data))
                else:
                    raise AssertionError(f"the websocket ended ({message}) before {wanted!r}: {self.shown[-500:]!r}")


async def opened(http: Http, **fields: Any) -> dict[str, Any]:
    reply = await http("POST", SESSIONS, json={"container_id": "ctr_1", "shell": "/bin/sh", **fields})
    assert reply.status == 201, reply.body
    value: dict[str, Any] = reply.json
    return value


async def attached(http: Http, record: dict[str, Any], **options: Any) -> Screen:
    return Screen(await http.session.ws_connect(http.url + record["attach_url"], protocols=("terminal",), **options))


async def test_a_session_from_its_beginning_to_its_end(http: Http) -> None:
    record = await opened(http, cols=100, rows=30, environment={"PS1": "$ "})
    screen = await attached(http, record)
    assert screen.ws.protocol == "terminal"
    ready = await screen.until("ready")
    assert (ready["cols"], ready["rows"], ready["session_id"]) == (100, 30, record["session_id"])
    await screen.ws.send_bytes(b"stty size; tty; echo $TERM $OWN; pwd\n")
    await screen.until(b"30 100\r\n/dev/pts/")
    await screen.until(b"xterm-256color 1\r\n/usr\r\n")
    await screen.ws.send_str(json.dumps({"type": "resize", "cols": 90, "rows": 20}))
    await screen.ws.send_bytes(b"stty size\n")
    await screen.until(b"20 90\r\n")
    await screen.ws.send_str(json.dumps({"type": "ping", "id": 7}))
    assert (await screen.until("pong"))["id"] == 7
    for wrong in (
        "nonsense",
        "[]",
        '{"type": "resize", "cols": 0}',
        '{"type": "signal", "signal": "X"}',
        '{"type": "?"}',
    ):
        await screen.ws.send_str(wrong)
        assert (await screen.until("error"))["message"]
    await screen.ws.send_bytes(b"sh -c 'echo r$((0))nning; exec sleep 1000'\n")
    await screen.until(b"r0nning\r\n")
    screen.shown = b""
    await screen.ws.send_bytes(b"\x03")
    await screen.until(b"$ ")  # a shell may throw away what was typed before it
    await screen.ws.send_bytes(b"echo $((40+2))\n")
    await screen.until(b"\r\n42\r\n")
    await screen.ws.send_bytes(b"exit 9\n")
    ended = await screen.until("exit")
    assert (ended["code"], ended["reason"]) == (9, "exited")
    got = await http("GET", f"{SESSIONS}/{record['session_id']}")
    assert (got.json["state"], got.json["exit_code"]) == ("ended", 9)


async def test_signals_by_name(http: Http) -> None:
    record = await opened(http)
    screen = await attached(http, record)
    await screen.ws.send_bytes(b"sh -c 'trap \"echo got i$((0))t\" INT; echo s$((0))t; while :; do sleep 0.1; done'\n")
    await screen.until(b"s0t\r\n")
    await screen.ws.send_str('{"type": "signal", "signal": "INT"}')
    await screen.until(b"got i0t\r\n")
    await screen.ws.send_str('{"type": "signal", "signal": "SIGKILL"}')
    assert (await screen.until("exit"))["code"] == 128 + 9


async def test_reattach_shows_the_last_screenful(http: Http) -> None:
    record = await opened(http)
    screen = await attached(http, record)
    await screen.ws.send_bytes(b"echo left be$((1))hind\n")
    await screen.until(b"left be1hind\r\n")
    await screen.ws.close()
    again = await attached(http, record)
    await again.until(b"left be1hind\r\n")
    assert again.shown.startswith(b"\x1bc")
    both = await attached(http, record)
    await both.ws.send_bytes(b"echo to b$((0))th\n")
    await again.until(b"to b0th\r\n")
    await both.until(b"to b0th\r\n")


async def test_a_websocket_that_stops_reading_holds_nobody_up(http: Http) -> None:
    record = await opened(http)
    slow = await attached(http, record)
    quick = await attached(http, record)
    slow.ws._response.connection.transport.pause_reading()  # type: ignore[union-attr]
    await quick.ws.send_bytes(b"head -c 8000000 /dev/zero | tr '\\0' x; echo; echo d$((0))ne\n")
    await quick.until(b"d0ne\r\n")
    slow.ws._response.connection.transport.resume_reading()  # type: ignore[union-attr]
    await slow.until(b"d0ne\r\n")
    assert len(slow.shown) < 12_000_000


async def test_what_is_typed_at_a_command_that_does_not_read(http: Http) -> None:
    record = await opened(http)
    screen = await attached(http, record)
    await screen.ws.send_bytes(b"stty raw -echo; echo r$((0))w; sleep 1000\n")
    await screen.until(b"r0w")
    for _ in range(3):
        await screen.ws.send_bytes(b"x" * 500_000)
    assert "dropped" in (await screen.until("error"))["message"]
    await screen.ws.send_str('{"type": "ping"}')
    await screen.until("pong")


async def test_delete_ends_it_and_its_children(http: Http, served: Served) -> None:
    record = await opened(http)
    screen = await attached(http, record)
    await screen.ws.send_bytes(b"trap : HUP; sh -c 'echo r$((0))nning; exec sleep 1000'\n")
    await screen.until(b"r0nning\r\n")
    ended = await http("DELETE", f"{SESSIONS}/{record['session_id']}")
    assert (ended.status, ended.json["reason"]) == (200, "deleted")
    assert (await screen.until("exit"))["reason"] == "deleted"
    await asyncio.to_thread(wait_for, "all to be gone", lambda: served.processes() == 1)


async def test_who_may_attach(http: Http) -> None:
    record = await opened(http)
    plain = f"/ws/terminal/attach?session_id={record['session_id']}"
    stranger = await opened(http)

    async def status(path: str, **headers: str) -> int:
        try:
            ws = await http.session.ws_connect(http.url + path, headers=headers)
        except aiohttp.WSServerHandshakeError as error:
            return error.status
        await ws.close()
        return 101

    assert await status(plain) == 401
    assert await status(plain + "&token=wrong") == 403
    assert await status(plain + "&token=tkt_wrong") == 404
    assert await status(plain + "&" + stranger["attach_url"].split("&")[1]) == 404
    assert await status(plain + f"&token={OTHER_KEY}") == 404
    assert await status(plain + f"&token={KEY}") == 101
    assert await status(plain, **{"X-Api-Key": KEY}) == 101
    assert await status(record["attach_url"]) == 101
    assert await status(record["attach_url"], Origin="https://elsewhere.example") == 403
    assert await status(record["attach_url"], Origin=http.url) == 101
    assert await status("/ws/terminal/attach?token=x") == 422
    plain_request = await http("GET", record["attach_url"])
    assert plain_request.status == 400 and "subprotocol terminal" in plain_request.json["hint"]
    # A ticket is no key, and only the answer to the create shows it.
    ticket = record["attach_url"].split("token=")[1]
    assert (await http("GET", SESSIONS, key=ticket)).status == 403
    shown = await http("GET", f"{SESSIONS}/{record['session_id']}")
    assert b"tkt_" not in shown.body
    assert (await http("GET", f"{SESSIONS}/{record['session_id']}", key=OTHER_KEY)).status == 404
    assert (await http("DELETE", f"{SESSIONS}/{record['session_id']}", key=OTHER_KEY)).status == 404
    assert (await http("GET", SESSIONS, key=OTHER_KEY)).json["sessions"] == []
    assert len((await http("GET", SESSIONS)).json["sessions"]) == 2


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """That every user of the machine may enter and write, which pytest's `tmp_path` is not."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o777)
        yield Path(path)


async def test_too_many_commands(
    http: Http, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch, shared_folder: Path
) -> None:
    """Of execs and streams together; what has ended makes room."""
    go = str(shared_folder / "go")
    waits = ["sh", "-c", 'while [ ! -e "$1" ]; do sleep 0.05; done', "sh", go]
    first = asyncio.create_task(http("POST", EXEC, json={"command": waits}))
    await until(lambda: bool(platform.commands._running._running))
    monkeypatch.setattr(platform.commands._running, "limit", 1)
    for path in (EXEC, STREAM):
        refused = await http("POST", path, json={"command": ["true"]})
        assert (refused.status, refused.code, refused.json["details"]["used"]) == (429, "QUOTA_EXCEEDED", 1)
        assert refused.headers["Retry-After"] == "1", "commands end by themselves"
    monkeypatch.setattr(platform.commands._running, "limit", 2)
    assert (await http("POST", STREAM, json={"command": ["touch", go]})).status == 200
    assert (await first).json["exit_code"] == 0
    assert not platform.commands._running._running


async def test_too_many_sessions(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pool.terminals.SESSIONS_MAX", 1)
    await opened(http)
    refused = await http("POST", SESSIONS, json={"container_id": "ctr_1"})
    assert (refused.status, refused.code, refused.json["details"]["used"]) == (429, "QUOTA_EXCEEDED", 1)
    assert "Retry-After" not in refused.headers, "sessions have to be ended"


async def test_wrong_sessions(http: Http) -> None:
    for body, status, code in (
        ({"container_id": "ctr_1", "shell": "bash"}, 422, "INVALID_VALUE"),
        ({"container_id": "ctr_1", "cols": 0}, 422, "INVALID_VALUE"),
        ({"container_id": "ctr_9"}, 404, "CONTAINER_NOT_FOUND"),
        ({"container_id": "ctr_2"}, 409, "CONTAINER_NOT_RUNNING"),
        ({"container_id": "ctr_1", "shell": "/no/shell"}, 409, "CONFLICT"),
    ):
        reply = await http("POST", SESSIONS, json=body)
        assert (reply.status, reply.code) == (status, code), body
    assert (await http("GET", f"{SESSIONS}/ses_0")).code == "SESSION_NOT_FOUND"
    assert (await http("POST", f"{SESSIONS}/ses_0/resize", json={"cols": 1, "rows": 1})).code == "SESSION_NOT_FOUND"


async def test_the_default_shell_and_the_end_of_the_container(http: Http, served: Served) -> None:
    reply = await http("POST", SESSIONS, json={"container_id": "ctr_1", "user": "nobody"})
    screen = await attached(http, reply.json)
    await screen.ws.send_bytes(b"echo $(id -un) $((1+1))$BASH_VERSION; cat /dev/stdin\n")
    await screen.until(b"nobody 2")
    os.kill(served.pid, signal.SIGKILL)
    ended = await screen.until("exit")
    assert (ended["code"], ended["reason"]) == (None, "container_gone")


async def test_the_page_and_its_files(http: Http) -> None:
    page = await http("GET", "/terminal/ses_any", key=None)
    assert page.status == 200 and b"xterm.js" in page.body
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    for name in ("xterm.js", "addon-fit.js", "terminal.js", "xterm.css", "terminal.css"):
        assert (await http("GET", f"/terminal/assets/{name}", key=None)).status == 200
        assert name.encode() in page.body
    for name in ("terminal.html", "..%2fterminals.py", "LICENSE-xterm"):
        assert (await http("GET", f"/terminal/assets/{name}", key=None)).status == 404
