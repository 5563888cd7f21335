"""The benchmarks' own HTTP, what a start is checked for, and the demo's table. Not here: a real platform."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import demo, floors, leftovers
from benchmarks.functions import check
from benchmarks.together import complete, send_all
from benchmarks.wire import Answer, CallFailed, Http, request_bytes
from quilt_fn.settings import Settings


@pytest.fixture
def server() -> Iterator[tuple[int, list[bytes]]]:
    """Answers each request on a connection with the next of the list, one byte at a time."""
    answers: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while answers and connection.recv(65_536):
                for byte in answers.pop(0):
                    connection.sendall(bytes([byte]))

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1], answers
    thread.join(10)
    listener.close()


def test_answers_are_read_whole_however_they_arrive(server: tuple[int, list[bytes]]) -> None:
    port, answers = server
    answers += [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Quilt-Start: fork\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
    ]
    http = Http(port, "quilt_sk_x")
    first = http.request("POST", "/fn/noop", b"{}")
    assert (first.status, first.json(), first.headers["x-quilt-start"]) == (200, {}, "fork")
    assert first.ms > 0
    assert http.request("GET", "/logs").body == b"abcde"
    with pytest.raises(CallFailed, match="404"):
        http.api("GET", "/api/functions/none")
    http.close()


def test_a_request_is_one_piece() -> None:
    data = request_bytes("POST", "/fn/x", b"{}", {"X-Api-Key": "k"})
    assert data == b"POST /fn/x HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Api-Key: k\r\nContent-Length: 2\r\n\r\n{}"
    assert b"Content-Length" not in request_bytes("GET", "/health", b"", {})


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
    ],
)
def test_when_an_answer_is_whole(data: bytes, whole: bool) -> None:
    assert complete(data) is whole


def test_many_at_once_are_each_answered() -> None:
    pairs = [socket.socketpair() for _ in range(3)]

    def answer() -> None:
        for _, theirs in pairs:
            theirs.recv(16)
            theirs.sendall(b"{}")

    thread = threading.Thread(target=answer)
    thread.start()
    found = send_all([ours for ours, _ in pairs], b"0", bool)
    thread.join(10)
    assert [answer for _, answer in found] == [b"{}"] * 3
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_a_start_of_another_kind_is_refused() -> None:
    answer = Answer(200, {"x-quilt-start": "boot"}, b"{}", 1.0)
    check("noop", answer, "boot")
    check("noop", answer, None)
    with pytest.raises(CallFailed, match="'fork' but was 'boot'"):
        check("noop", answer, "fork")
    with pytest.raises(CallFailed, match="500"):
        check("noop", Answer(500, {}, b"oh", 1.0), None)


def test_the_demo_shows_each_example_with_each_start() -> None:
    assert [example.name for example in demo.EXAMPLES] == ["noop", "thumbnail", "report"]
    for example in demo.EXAMPLES:
        assert (demo.REPOSITORY / "examples" / example.name / "handler.py").is_file()
    assert set(demo.RUNS) == {"boot", "restore", "fork", "warm"}
    compile(demo.ENTRY, "demo_entry", "exec")
    line = demo.line("noop", "fork", [3.0, 1.0, 2.0])
    assert (line.p50_ms, line.p90_ms, line.n) == (2.0, 3.0, 3)
    assert "fork" in demo.table([line])


def test_an_answer_that_is_not_the_examples_fails_the_demo() -> None:
    noop, thumbnail, report = (example.shows for example in demo.EXAMPLES)
    assert "JPEG" in thumbnail(Answer(200, {}, b"\xff\xd8\xff" + bytes(100), 1.0))
    assert "100,000" in report(Answer(200, {}, b'{"orders": 100000}', 1.0))
    for shows, body in ((noop, b"[]"), (thumbnail, b"{}"), (report, b'{"orders": 3}')):
        with pytest.raises(CallFailed):
            shows(Answer(200, {}, body, 1.0))


def test_the_newest_snapshot_of_a_bundle_is_found(tmp_path: Path) -> None:
    for name, bundle, taken_at, dump in (("snp_1", "a", 1, True), ("snp_2", "a", 2, True), ("snp_3", "a", 3, False),
                                         ("snp_4", "b", 4, True)):  # fmt: skip
        (tmp_path / name).mkdir()
        manifest = {"lowers": {"bundle": bundle}, "taken_at": taken_at, "dump": dump}
        (tmp_path / name / "manifest.json").write_text(json.dumps({"manifest": manifest, "seal": ""}))
    assert floors.newest_snapshot(tmp_path, "a") == "snp_2"
    with pytest.raises(CallFailed):
        floors.newest_snapshot(tmp_path, "c")


def test_nothing_is_left_of_a_platform_that_never_was(tmp_path: Path) -> None:
    settings = Settings(state_dir=str(tmp_path / "state"))
    assert leftovers.left(settings, set()) == []
    running = leftovers.family(settings, os.getpid())
    assert any(line.startswith(f"process {os.getpid()} ") for line in leftovers.left(settings, running))
