"""`--json` of the commands about containers and volumes that write bytes, or nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.cli import quilt
from tests.integration.live import Live


@pytest.fixture(scope="module")
def box(live: Live) -> Iterator[str]:
    made = live.ok("POST", "/api/containers", {"name": "for-json", "memory_limit_mb": 64})
    yield str(made["container_id"])
    live.ok("DELETE", f"/api/containers/{made['container_id']}")


def said(live: Live, *words: str, stdin: bytes = b"") -> tuple[int, Any]:
    done = quilt(live, *words, stdin=stdin)
    assert done.stderr == b""
    return done.returncode, json.loads(done.stdout)


def test_exec_answers_what_the_api_answers(live: Live, box: str) -> None:
    script = "cat; echo out; echo err >&2; exit 7"
    code, got = said(live, "exec", "--json", "for-json", "--", "sh", "-c", script, stdin=b"in\n")
    body = {"command": ["sh", "-c", script], "stdin": "in\n"}
    wanted = live.ok("POST", f"/api/containers/{box}/exec", body)
    assert got.pop("execution_time_ms") > 0 and wanted.pop("execution_time_ms") > 0
    assert (code, got) == (7, wanted)


def test_exec_of_bytes_and_of_too_many(live: Live, box: str) -> None:
    code, got = said(live, "exec", "--json", box, "cat", stdin=b"\xff\0")
    assert (code, base64.b64decode(got["stdout_b64"]), got["stderr_b64"]) == (0, b"\xff\0", None)
    code, got = said(live, "exec", "--json", box, "head", "-c", "2000000", "/dev/zero")
    assert (code, got["stdout"], got["truncated"]) == (0, "\0" * (1 << 20), True)


@pytest.mark.parametrize(
    ("words", "code", "exit_code", "reason"),
    [
        (["no-such-command"], 127, 127, "not_started"),
        (["sh", "-c", "kill -9 $$"], 137, 137, "signalled"),
        (["python3", "-c", "a = []\nwhile True: a.append(bytearray(1 << 20))"], 137, 137, "out_of_memory"),
    ],
)
def test_exec_says_why_it_ended(live: Live, box: str, words: list[str], code: int, exit_code: int, reason: str) -> None:
    returned, got = said(live, "exec", "--json", "for-json", "--", *words)
    assert (returned, got["exit_code"], got["exit_reason"]) == (code, exit_code, reason)
    assert (reason == "not_started") == ("no-such-command" in got["stderr"])


def test_exec_out_of_time_and_what_fails(live: Live, box: str) -> None:
    code, got = said(live, "exec", "--json", "--timeout", "0.3", "for-json", "sleep", "100")
    assert (code, got["exit_code"], got["exit_reason"], got["timed_out"]) == (124, 143, "timed_out", True)
    none = quilt(live, "exec", "--json", "no-such-container", "true")
    assert (none.returncode, json.loads(none.stderr)["error_code"]) == (125, "CONTAINER_NOT_FOUND")
    inside = quilt(live, "exec", "no-such-container", "ls", "--json")  # the command's own, not ours
    assert inside.returncode == 125 and inside.stderr.startswith(b"error: ")


def test_signal(live: Live, box: str) -> None:
    started = live.ok("POST", f"/api/containers/{box}/exec", {"command": ["sh", "-c", "sleep 1000 & echo $!"]})
    pid = int(started["stdout"])
    code, got = said(live, "containers", "signal", "--json", "for-json", str(pid), "KILL")
    assert (code, got) == (0, {"container_id": box, "pid": pid, "signal": "KILL"})


def test_cat(live: Live) -> None:
    live.ok("POST", "/api/volumes", {"name": "for-json"})
    try:
        for name, data in (("text", b"\xc3\xa9\n"), ("bytes", b"\xff\0")):
            content = base64.b64encode(data).decode()
            live.ok("POST", "/api/volumes/for-json/files", {"path": f"a/{name}", "content": content})
        text = {"volume": "for-json", "path": "a/text", "size": 3, "content": "é\n", "content_b64": None}
        assert said(live, "volumes", "cat", "--json", "for-json:a/text") == (0, text)
        code, got = said(live, "volumes", "cat", "for-json:a/bytes", "--json")
        assert (code, base64.b64decode(got["content_b64"]), got["size"]) == (0, b"\xff\0", 2)
        assert quilt(live, "volumes", "cat", "for-json:a/bytes").stdout == b"\xff\0"
    finally:
        live.ok("DELETE", "/api/volumes/for-json")


def test_terminals(live: Live, box: str) -> None:
    code, opened = said(live, "terminals", "open", "--json", "for-json", "--shell", "/bin/sh")
    session = opened["session_id"]
    assert (code, opened["container_id"], "token=" in opened["page_url"]) == (0, box, True)
    assert session in [each["session_id"] for each in said(live, "terminals", "list", "--json")[1]["sessions"]]
    assert said(live, "terminals", "get", "--json", session)[1]["state"] == "running"
    for words in (("list",), ("get", session)):
        shown = quilt(live, "terminals", *words)
        assert (shown.returncode, session in shown.stdout.decode()) == (0, True), shown
    code, closed = said(live, "terminals", "close", "--json", session)
    assert (code, [each["reason"] for each in closed["sessions"]]) == (0, ["deleted"])
    none = quilt(live, "terminals", "close", "ses_none")
    assert (none.returncode, b"ses_none" in none.stderr) == (3, True)
    url = quilt(live, "terminals", "open", "for-json")
    assert url.stdout.startswith(f"http://127.0.0.1:{live.port}/terminal/ses_".encode()) and b"#token=" in url.stdout
