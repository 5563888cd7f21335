"""`Client().containers` on a real platform: commands and terminals, as Python has them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from quilt_fn.client import Client
from quilt_fn.containers import Container
from quilt_fn.errors import Conflict, SessionNotFound, Unavailable
from quilt_fn.terminals import Screen
from tests.integration.live import Live
from tests.slowness import patience


@pytest.fixture(scope="module")
def client(platform_of_all: Live) -> Client:
    return Client(f"http://127.0.0.1:{platform_of_all.port}", platform_of_all.key)


@pytest.fixture(scope="module")
def box(client: Client) -> Iterator[Container]:
    with client.containers.create("from-python") as made:
        yield made


def test_what_is_no_text_goes_in_and_comes_out(box: Container) -> None:
    every = bytes(range(256)) * 100
    done = box.exec("sh", "-c", "cat; echo plain >&2", stdin=every)
    assert (done.stdout_bytes, done.stderr, done.stderr_b64) == (every, "plain\n", None)
    text = box.exec("cat", stdin="é\n")
    assert (text.stdout, text.stdout_b64, text.stdout_bytes) == ("é\n", None, "é\n".encode())


async def test_the_same_awaited(box: Container) -> None:
    assert (await box.exec.aio("cat", stdin=b"\xff")).stdout_bytes == b"\xff"


def test_ready(box: Container) -> None:
    found = box.ready()
    assert (found.container_id, found.exec_ready, found.network_ready) == (box.id, True, True)
    assert found.checks.state_running and found.checks.init_responsive


def shown(screen: Screen, wanted: bytes) -> bytes:
    """What it shows, until that has come."""
    seen = b""
    while wanted not in seen:
        piece = screen.read()
        assert piece, seen
        seen += piece
    return seen


def test_a_terminal(client: Client, box: Container) -> None:
    with box.terminal(cols=97, rows=31, shell="/bin/sh", workdir="/usr", environment={"MARK": "here"}) as terminal:
        assert (terminal.record.state, terminal.record.container_id) == ("running", box.id)
        assert "#token=tkt_" in terminal.page_url
        with terminal.attach() as screen:
            screen.write("stty size; pwd; echo $MARK\n")
            shown(screen, b"31 97\r\n/usr\r\nhere\r\n")
            terminal.resize(60, 20)
            screen.write(b"stty size\n")
            shown(screen, b"20 60")
            screen.resize(61, 21)
            screen.write("stty size; sh -c 'trap \"echo got it; exit\" INT; echo set; while :; do sleep 0.1; done'\n")
            shown(screen, b"set\r\n")
            screen.signal("INT")
            shown(screen, b"got it\r\n")
        with pytest.raises(Unavailable, match="is closed"):
            screen.read()
        again = client.terminals.get(terminal.id)
        assert terminal.id in [each.session_id for each in client.terminals.list().items]
        with again.attach() as screen:
            screen.write("exit 5\n")
            while screen.read():
                pass
            assert (screen.exit_code, screen.reason, screen.read()) == (5, "exited", b"")
        assert (again.refresh().record.state, again.record.exit_code) == ("ended", 5)
    with pytest.raises(SessionNotFound):
        client.terminals.get("ses_none")


def test_a_session_that_is_closed(client: Client, box: Container) -> None:
    terminal = box.terminal()
    with terminal.attach() as screen:
        ended = terminal.close().record
        while screen.read():
            pass
        assert (ended.state, ended.reason, screen.exit_code, screen.reason) == (
            "ended", "deleted", ended.exit_code, "deleted",
        )  # fmt: skip
    assert terminal.close().record.state == "ended"  # for a minute it is there, and stays what it was


async def test_a_terminal_awaited(client: Client, box: Container) -> None:
    assert (await box.ready.aio()).exec_ready
    async with await box.terminal.aio(shell="/bin/sh") as terminal, await terminal.attach.aio() as screen:
        await screen.write.aio("exit 3\n")
        while await screen.read.aio():
            pass
        assert screen.exit_code == 3
    with pytest.raises(SessionNotFound):
        await (await client.terminals.get.aio("ses_none")).attach.aio()


def test_what_is_wrong_with_a_terminal(box: Container) -> None:
    with pytest.raises(Conflict, match="no-such-shell"):
        box.terminal(shell="/no-such-shell")
    with box.terminal(shell="/bin/sh") as terminal, terminal.attach() as screen:
        screen.signal("SIGNONE")
        with pytest.raises(Conflict, match="signal must be one of"):
            while screen.read():
                pass
        screen.write("echo on\n")
        shown(screen, b"on\r\n")


def test_a_connection_that_nobody_closes_does_not_hold_up_the_end(client: Client, box: Container) -> None:
    script = (
        "import sys; from quilt_fn.client import Client; "
        "screen = Client(*sys.argv[1:3]).containers.get(sys.argv[3]).terminal().attach(); print(len(screen.read()) > 0)"
    )
    words = [sys.executable, "-c", script, client.url, str(client.api_key), box.id]
    done = subprocess.run(words, capture_output=True, text=True, timeout=patience(60))
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
