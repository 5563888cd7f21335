"""Wrong input to a real platform: one clear error of one shape, and nothing changed.

Not here: the parsing of each field (the unit tests of gateway and model).
"""

from __future__ import annotations

import gzip
import io
import json
import socket
import tarfile
import threading
from collections.abc import Callable

import cloudpickle
import pytest

from tests.integration.live import Answer, Live, wait_for
from tests.slowness import patience

CALL = {"Content-Type": "application/vnd.quilt.call"}


def assert_shape(got: Answer, status: int, code: str) -> dict[str, object]:
    body = got.json()
    assert (got.status, body["error_code"]) == (status, code), body
    assert set(body) == {"error", "error_code", "request_id", "details", "retry_after", "hint"}
    assert body["error"] and body["request_id"] == got.headers["x-request-id"]
    assert isinstance(body, dict)
    return body


@pytest.fixture(scope="module")
def echo(live: Live) -> str:
    return live.deploy("def handler(event): return event")


def test_unknown_things(live: Live) -> None:
    assert_shape(live.ask("POST", "/fn/nobody", {}), 404, "FUNCTION_NOT_FOUND")
    assert_shape(live.ask("POST", "/api/functions/invoke/nobody", {}), 404, "FUNCTION_NOT_FOUND")
    assert_shape(live.ask("GET", "/api/functions/fn_00000000000000000000"), 404, "FUNCTION_NOT_FOUND")
    assert_shape(live.ask("GET", "/api/nothing"), 404, "ROUTE_NOT_FOUND")
    for name in ("..", "%2e%2e%2fapi", "a/../../etc", "UPPER", "a" * 200):
        assert_shape(live.ask("POST", f"/fn/{name}", {}), 404, "FUNCTION_NOT_FOUND")


def test_credentials(live: Live, echo: str) -> None:
    assert_shape(live.ask("GET", "/api/functions", key=None), 401, "UNAUTHENTICATED")
    assert_shape(live.ask("GET", "/api/functions", key="quilt_sk_" + "0" * 32), 403, "FORBIDDEN")
    assert_shape(live.ask("POST", f"/fn/{echo}", {}, key=None), 401, "UNAUTHENTICATED")
    assert_shape(live.ask("POST", f"/fn/{echo}", {}, key="quilt_sk_" + "0" * 32), 403, "FORBIDDEN")


def test_malformed_json(live: Live, echo: str) -> None:
    as_json = {"Content-Type": "application/json"}
    for path in (f"/fn/{echo}", f"/api/functions/invoke/{echo}", "/api/functions"):
        for body in (b"{", b'{"a": NaN}', b"\xff\xfe", b"[" * 5000):
            assert_shape(live.ask("POST", path, body, headers=as_json), 400, "INVALID_REQUEST")


def test_a_wrong_type_names_the_field(live: Live, echo: str) -> None:
    body = assert_shape(
        live.ask("POST", "/api/functions", {"name": "x", "handler": "main:handler", "memory_limit_mb": "much"}),
        422, "INVALID_VALUE",
    )  # fmt: skip
    assert "memory_limit_mb" in json.dumps(body["details"])
    misspelt = {"name": "x", "handler": "main:handler", "memory_mb": 64}
    assert "memory_mb" in live.ask("POST", "/api/functions", misspelt).body.decode()
    for path, sent in (("/api/functions", [1]), (f"/api/functions/invoke/{echo}", {"timeout_seconds": "soon"})):
        assert live.ask("POST", path, sent).status in (400, 422)
    assert live.ask("GET", "/api/functions/by-name/x").status == 404


def test_too_large_a_body(live: Live, echo: str) -> None:
    limit = live.settings.max_body_mb << 20
    assert live.ask("POST", f"/fn/{echo}", b" " * (limit - 2) + b"{}").status == 200
    assert_shape(_oversized(live, f"/fn/{echo}", limit + 1), 413, "PAYLOAD_TOO_LARGE")
    assert_shape(_oversized(live, "/api/functions", limit + 1), 413, "PAYLOAD_TOO_LARGE")
    assert live.call(echo, 7) == 7


def _oversized(live: Live, path: str, size: int) -> Answer:
    """Said to be too large: the answer comes before the body was sent."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=patience(20)) as sock:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {live.key}\r\nContent-Type: application/json\r\n"
        sock.sendall(f"{head}Content-Length: {size}\r\nConnection: close\r\n\r\n".encode() + b"x" * 1000)
        raw = b""
        while b"\r\n\r\n" not in raw:
            piece = sock.recv(65536)
            assert piece, raw
            raw += piece
        top, _, body = raw.partition(b"\r\n\r\n")
        lines = top.decode().split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
        while len(body) < int(headers["content-length"]):
            body += sock.recv(65536)
    return Answer(int(lines[0].split()[1]), headers, body)


def packed(*entries: tarfile.TarInfo, data: bytes = b"x = 1\n") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for entry in entries:
            if entry.isreg():
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
            else:
                tar.addfile(entry)
    return out.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o644
    info.devmajor, info.devminor = 1, 3
    return info


def zip_bomb() -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9) as zipped:
        info = tarfile.TarInfo("zeros")
        info.size = 5 << 30
        zipped.write(info.tobuf())
        block = bytes(1 << 20)
        for _ in range(1100):
            zipped.write(block)
    return out.getvalue()


@pytest.mark.parametrize(
    "archive",
    [
        pytest.param(lambda: b"this is no archive", id="no archive"),
        pytest.param(lambda: b"", id="empty"),
        pytest.param(lambda: packed(entry("main.py"))[:-20], id="cut off"),
        pytest.param(lambda: packed(entry("../main.py")), id="dot dot"),
        pytest.param(lambda: packed(entry("a/../../main.py")), id="dot dot within"),
        pytest.param(lambda: packed(entry("/etc/cron.d/x")), id="absolute"),
        pytest.param(lambda: packed(entry("l", tarfile.SYMTYPE, "/etc/shadow")), id="symlink"),
        pytest.param(lambda: packed(entry("l", tarfile.SYMTYPE, "/"), entry("l/etc/x")), id="through a symlink"),
        pytest.param(lambda: packed(entry("main.py"), entry("l", tarfile.LNKTYPE, "main.py")), id="hard link"),
        pytest.param(lambda: packed(entry("dev", tarfile.CHRTYPE)), id="device"),
        pytest.param(lambda: packed(entry("pipe", tarfile.FIFOTYPE)), id="fifo"),
        pytest.param(zip_bomb, id="bomb"),
    ],
)
def test_a_bundle_that_is_none(live: Live, archive: Callable[[], bytes]) -> None:
    body = archive()
    got = live.ask("POST", "/api/bundles", body, headers={"Content-Type": "application/gzip"})
    assert got.status in (400, 422), got.body
    assert got.code in ("BUNDLE_INVALID", "INVALID_REQUEST")


def test_a_bundle_that_is_not_there(live: Live) -> None:
    got = live.ask("POST", "/api/functions", {"name": "lost", "handler": "main:handler", "bundle_id": "0" * 64})
    assert (got.status, got.code) == (404, "BUNDLE_NOT_FOUND")


def test_a_bundle_of_files_in_folders_runs(live: Live) -> None:
    body = packed(entry("pkg", tarfile.DIRTYPE), entry("pkg/main.py"), data=b"def handler(event): return __file__\n")
    body_id = live.ok("POST", "/api/bundles", body, headers={"Content-Type": "application/gzip"})["bundle_id"]
    live.ok("POST", "/api/functions", {"name": "folders", "handler": "pkg.main:handler", "bundle_id": body_id})
    live.ok("POST", f"/api/functions/{live.id('folders')}/deploy")
    assert live.call("folders") == "/fn/pkg/main.py"


def test_a_pickle_needs_a_key_of_the_owner(live: Live) -> None:
    """A public function takes JSON from anybody, and a pickle from nobody but its owner."""
    name = live.deploy("def handler(*args, **kwargs): return [len(args), sorted(kwargs)]", auth="public")
    assert live.ask("POST", f"/fn/{name}", {}, key=None).status == 200
    call = cloudpickle.dumps(((1, 2), {"k": 3}))
    assert_shape(live.ask("POST", f"/fn/{name}", call, headers=CALL, key=None), 403, "FORBIDDEN")
    for content_type in (
        "application/vnd.quilt.CALL",
        "application/vnd.quilt.call; charset=x",
        " application/vnd.quilt.call",
    ):
        got = live.ask("POST", f"/fn/{name}", call, headers={"Content-Type": content_type}, key=None)
        assert got.status == 403, content_type
    got = live.ask("POST", f"/fn/{name}", call, headers={**CALL, "Authorization": "Bearer someone"}, key=None)
    assert got.status == 403
    assert live.ask("POST", f"/fn/{name}", call, headers=CALL).status == 200


def test_a_pickle_that_is_none_fails_that_call_alone(live: Live, echo: str) -> None:
    got = live.ask("POST", f"/fn/{echo}", b"\x80\x05not a pickle", headers=CALL)
    assert 400 <= got.status < 600 and got.status != 502, got.body
    assert live.call(echo, 3) == 3


def test_a_python_that_does_not_match_is_named(live: Live) -> None:
    name = live.create("def handler(event): pass", python="3.2")
    got = live.ask("POST", f"/api/functions/{live.id(name)}/deploy")
    assert (got.status, got.code) == (422, "PYTHON_MISMATCH")
    assert "3.2" in got.json()["error"] and "3.1" in got.json()["error"]


def test_a_name_that_is_taken(live: Live, echo: str) -> None:
    sent = {"name": echo, "handler": "main:handler", "source": ""}
    assert_shape(live.ask("POST", "/api/functions", sent), 409, "NAME_TAKEN")


def test_states_that_refuse(live: Live) -> None:
    name = live.create("def handler(event): return 1")
    assert_shape(live.ask("POST", f"/fn/{name}", {}), 409, "FUNCTION_NOT_DEPLOYED")
    live.ok("POST", f"/api/functions/{live.id(name)}/deploy")
    live.ok("POST", f"/api/functions/{live.id(name)}/pause")
    assert_shape(live.ask("POST", f"/fn/{name}", {}), 409, "FUNCTION_PAUSED")


def test_a_full_queue_answers_429(live: Live) -> None:
    name = live.deploy(
        "import time\ndef handler(event): time.sleep(event['s'])",
        max_instances=1,
        max_queue=2,
        timeout_seconds=patience(20),
    )
    running = threading.Thread(target=live.call, args=(name, {"s": patience(2)}))
    running.start()
    wait_for(lambda: live.pool(name)["busy_count"] == 1, "the first to run")
    answers = live.many(6, lambda _: live.ask("POST", f"/fn/{name}", {"s": 0}), 6)
    running.join()
    assert sorted(a.status for a in answers) == [200, 200, 429, 429, 429, 429]
    full = next(a for a in answers if a.status == 429)
    assert_shape(full, 429, "QUEUE_FULL")
    assert float(full.headers["retry-after"]) > 0


def test_a_client_that_goes_away_leaks_no_instance(live: Live) -> None:
    """Its invocation is finished and recorded, and the instance serves again."""
    source = f"import time\ndef handler(event): time.sleep({patience(0.5)}); return 'done'"
    name = live.deploy(source, max_instances=1)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", live.port)) as sock:
            head = f"POST /fn/{name} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {live.key}\r\nContent-Length: 2\r\n\r\n{{}}"
            sock.sendall(head.encode())
            wait_for(lambda: live.pool(name)["busy_count"] == 1, "the invocation to run")
    assert live.call(name) == "done"
    pool = live.pool(name)
    assert (pool["busy_count"], pool["total_count"]) == (0, 1)
    path = f"/api/functions/{live.id(name)}/invocations"
    kept = wait_for(lambda: len(r := live.ok("GET", path)["invocations"]) == 4 and r, "four records")
    assert {record["status"] for record in kept} == {"success"}


def test_a_reader_of_a_stream_that_goes_away_leaks_no_instance(live: Live) -> None:
    name = live.deploy("def handler(event):\n    while True: yield b'x' * 65536", max_instances=1, timeout_seconds=20)
    with socket.create_connection(("127.0.0.1", live.port)) as sock:
        head = f"POST /fn/{name} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {live.key}\r\nContent-Length: 2\r\n\r\n{{}}"
        sock.sendall(head.encode())
        assert sock.recv(1000)
    wait_for(lambda: live.pool(name)["busy_count"] == 0, "the instance to be let go")


def test_bytes_that_are_no_http(live: Live, echo: str) -> None:
    for raw in (b"\x16\x03\x01\x02\x00" * 10, b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", live.port), timeout=patience(10)) as sock:
            sock.sendall(raw)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
    assert live.call(echo, 1) == 1
