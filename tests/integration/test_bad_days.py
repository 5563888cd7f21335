"""What handlers do wrong on a real platform: each is told from the others, ends nobody else, and leaves nothing.

Not here: handlers that try to get out (`test_isolation`), and the platform's own bad days (tests/chaos).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.live import Live, wait_for
from tests.slowness import patience

SOURCE = """
import ctypes, os, signal, subprocess, sys, threading, time

seen = []

class Odd(Exception):
    pass

def raises(event):
    print("before")
    raise Odd("oh no: \\u00fc")

def raises_unprintable(event):
    class Bad(Exception):
        def __str__(self): raise RuntimeError("no text")
    raise Bad()

def exits(event): sys.exit(3)
def really_exits(event): os._exit(4)
def killed(event): os.kill(os.getpid(), signal.SIGKILL)
def terminated(event): os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)
def crashes(event): ctypes.string_at(0)
def aborts(event): os.abort()
def recurses(event): return recurses(event)
def sleeps(event):
    print("sleeping")
    time.sleep(60)

def stubborn(event):
    for number in range(1, 32):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

def stops(event): os.kill(os.getpid(), signal.SIGSTOP)
def eats(event): return len(b"x" * (1 << 30))
def eats_slowly(event):
    held = []
    while True:
        held.append(bytearray(os.urandom(1 << 20)))

def eats_in_a_child(event):
    child = subprocess.run([sys.executable, "-c", "held = [bytearray(b'x' * (1 << 20)) for _ in range(1000)]"])
    return child.returncode

def bomb(event):
    made = 0
    for _ in range(1000):
        try:
            pid = os.fork()
        except OSError:
            continue
        if pid == 0:
            while True:
                signal.pause()
        made += 1
    os.kill(-1, signal.SIGKILL)
    for _ in range(made):
        os.wait()
    return made

def bomb_of_threads(event):
    made = 0
    try:
        for _ in range(1000):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            made += 1
    except RuntimeError:
        pass
    return made

def real_bomb(event):
    while True:
        try:
            os.fork()
        except OSError:
            pass

def floods(event):
    block = b"x" * (1 << 20)
    for _ in range(1024):
        os.write(1, block)
    return "done"

def floods_stderr_without_end(event):
    while True:
        os.write(2, b"y" * (1 << 20))

def unserialisable(event): return object()
def unserialisable_within(event): return {"a": [1, {2, 3}, open]}
def circular(event):
    value = []
    value.append(value)
    return value
def surrogate(event): return "\\ud800"
def not_a_number(event): return float("nan")
def too_much(event): return "x" * (40 << 20)
def closes(event): os.closerange(0, 4096); return "closed"
def closes_output(event): os.close(1); os.close(2); print("nobody"); return "fine"
def garbage(event):
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink("/proc/self/fd/" + name).startswith("socket:"):
                os.write(int(name), b"\\xff" * 4096)
        except OSError:
            pass
    return "garbage"

def twice(event):
    import json, struct
    text = json.dumps({"status": 200, "headers": [], "kind": "json", "stream": False}).encode()
    frame = struct.pack("!BII", 17, len(text), 1) + text + b"1"
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink("/proc/self/fd/" + name).startswith("socket:"):
                os.write(int(name), frame * 3)
        except OSError:
            pass
    return 2

def remembers(event): seen.append(event); return seen
def leaves_children(event):
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        time.sleep(1000)
    return "left"

def digs(event):
    os.chdir("/tmp")
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")
    return "dug"

def locks(event):
    os.makedirs("/tmp/a/b"); open("/tmp/a/b/c", "w").close()
    os.chmod("/tmp/a/b/c", 0); os.chmod("/tmp/a/b", 0); os.chmod("/tmp/a", 0)
    os.symlink("/", "/tmp/l")
    return "locked"

def streams_and_raises(event):
    yield "one\\n"
    raise Odd("in the middle")

def streams_and(event):
    yield "one\\n"
    yield globals()[event["then"]](event)

def handler(event):
    return globals()[event["do"]](event)
"""
SPEC: dict[str, Any] = {"memory_limit_mb": 96, "pids_limit": 64, "timeout_seconds": patience(10), "max_instances": 4}


@pytest.fixture(scope="module")
def bad(live: Live) -> Callable[..., dict[str, Any]]:
    """`bad(what, …)`: an invocation's record, after which the function has to serve again."""
    name = live.deploy(SOURCE, "bad-days", **SPEC)

    def run(what: str, **more: Any) -> dict[str, Any]:
        got = live.invocation(name, {"do": what}, **more)
        assert what == "remembers" or live.call(name, {"do": "remembers"}) is not None
        return got

    return run


Bad = Callable[..., dict[str, Any]]


def test_raises(live: Live, bad: Bad) -> None:
    got = bad("raises")
    assert (got["status"], got["error_code"], got["stdout"]) == ("failed", "HANDLER_ERROR", "before\n")
    assert (got["error"]["type"], got["error"]["message"]) == ("main.Odd", "oh no: ü")
    trace = got["error"]["traceback"]
    assert 'File "/fn/main.py"' in trace and "raises" in trace and "_quilt_guest" not in trace
    again = live.ask("POST", "/fn/bad-days", {"do": "raises"})
    assert (again.status, again.code) == (500, "HANDLER_ERROR")


def test_an_exception_keeps_the_instance(live: Live) -> None:
    name = live.deploy(SOURCE, **{**SPEC, "max_instances": 1})
    live.call(name, {"do": "remembers"})
    assert live.ask("POST", f"/fn/{name}", {"do": "raises"}).status == 500
    assert live.ask("POST", f"/fn/{name}", {"do": "remembers"}).start == "warm"


def test_a_public_caller_sees_no_traceback(live: Live) -> None:
    name = live.deploy(SOURCE, **SPEC, auth="public")
    got = live.ask("POST", f"/fn/{name}", {"do": "raises"}, key=None)
    assert (got.status, got.code) == (500, "HANDLER_ERROR")
    assert "/fn/main.py" not in got.body.decode()
    assert "/fn/main.py" in live.ask("POST", f"/fn/{name}", {"do": "raises"}).body.decode()


@pytest.mark.parametrize("what", ["raises_unprintable", "recurses"])
def test_raises_what_is_hard_to_show(bad: Bad, what: str) -> None:
    got = bad(what)
    assert (got["status"], got["error_code"]) == ("failed", "HANDLER_ERROR")


@pytest.mark.parametrize(
    ("what", "codes", "words"),
    [
        ("really_exits", {"INSTANCE_DIED"}, "code 4"),
        ("killed", {"INSTANCE_DIED"}, "signal 9"),
        ("terminated", {"INSTANCE_DIED"}, "signal 15"),
        ("crashes", {"INSTANCE_DIED"}, "signal 11"),
        ("aborts", {"INSTANCE_DIED"}, "signal 6"),
        ("closes", {"INSTANCE_DIED"}, "instance"),
        ("garbage", {"INSTANCE_DIED"}, "instance"),
    ],
)
def test_dies(live: Live, bad: Bad, what: str, codes: set[str], words: str) -> None:
    got = bad(what)
    assert got["status"] == "failed" and got["error_code"] in codes, got
    assert words in got["error_message"]


def test_dies_over_http_is_a_502(live: Live, bad: Bad) -> None:
    got = live.ask("POST", "/fn/bad-days", {"do": "killed"})
    assert (got.status, got.code) == (502, "INSTANCE_DIED")


def test_sys_exit_is_the_handlers_failure(bad: Bad) -> None:
    got = bad("exits")
    assert got["status"] == "failed" and "SystemExit" in json.dumps(got)


@pytest.mark.parametrize("what", ["sleeps", "stubborn", "stops", "real_bomb", "floods_stderr_without_end"])
def test_over_its_time(live: Live, bad: Bad, what: str) -> None:
    got = bad(what, timeout_seconds=0.7)
    assert (got["status"], got["error_code"]) == ("timeout", "INVOCATION_TIMEOUT")
    if what == "sleeps":
        assert got["stdout"] == "sleeping\n"
        again = live.ask("POST", "/fn/bad-days", {"do": what}, headers={"X-Quilt-Timeout-S": "0.3"})
        assert (again.status, again.code) == (504, "INVOCATION_TIMEOUT")
        assert again.json()["details"]["limit"] == "X-Quilt-Timeout-S"


@pytest.mark.parametrize("what", ["eats", "eats_slowly"])
def test_over_its_memory(live: Live, bad: Bad, what: str) -> None:
    got = bad(what)
    assert (got["status"], got["error_code"]) == ("failed", "HANDLER_OUT_OF_MEMORY"), got
    assert "96 MB" in got["error_message"]


def test_a_child_over_the_memory_is_killed_and_the_rest_goes_on(bad: Bad) -> None:
    got = bad("eats_in_a_child")
    assert (got["status"], got["result"]) == ("success", -9) or got["error_code"] == "HANDLER_OUT_OF_MEMORY"


def test_a_thousand_processes(bad: Bad) -> None:
    got = bad("bomb")
    assert got["status"] == "success" and 10 < got["result"] < 64


def test_a_thousand_threads(bad: Bad) -> None:
    got = bad("bomb_of_threads")
    assert got["status"] == "success" and 10 < got["result"] < 64


def test_a_gigabyte_of_output(live: Live, bad: Bad) -> None:
    got = bad("floods", timeout_seconds=patience(10))
    assert (got["status"], got["result"], got["truncated"]) == ("success", "done", True)
    assert 1000 < len(got["stdout"]) <= 1 << 20


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("unserialisable", "RESULT_NOT_SERIALISABLE"),
        ("unserialisable_within", "RESULT_NOT_SERIALISABLE"),
        ("circular", "RESULT_NOT_SERIALISABLE"),
        ("surrogate", "RESULT_NOT_SERIALISABLE"),
        ("not_a_number", "RESULT_NOT_SERIALISABLE"),
    ],
)
def test_a_result_that_cannot_be_sent(live: Live, bad: Bad, what: str, code: str) -> None:
    got = bad(what)
    assert (got["status"], got["error_code"]) == ("failed", code), got["error_message"]
    assert live.ask("POST", "/fn/bad-days", {"do": what}).status == 500


NO_RESPONSE = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("no lifespan here")
    whole = scope["path"].endswith("whole")
    fine = scope["path"].endswith("fine")
    await send({"type": "http.response.start", "status": 299 if fine else 700, "headers": []})
    await send({"type": "http.response.body", "body": b"a", "more_body": not whole})
    if not whole:
        await send({"type": "http.response.body", "body": b"b"})
"""


@pytest.mark.parametrize("path", ["whole", "streamed"])
def test_a_response_that_is_none_fails_in_its_record_too_and_holds_no_instance(live: Live, path: str) -> None:
    name = live.deploy(NO_RESPONSE, handler="main:app", max_instances=1)
    got = live.ask("GET", f"/fn/{name}/{path}")
    assert (got.status, got.code) == (500, "RESULT_NOT_SERIALISABLE")
    fine = live.ask("GET", f"/fn/{name}/fine")
    assert (fine.status, fine.body) == (299, b"ab")
    listed = f"/api/functions/{live.id(name)}/invocations"
    kept = wait_for(lambda: (found := live.ok("GET", listed)["invocations"]) and len(found) == 2 and found, "records")
    told = [(record["status"], record["error_code"]) for record in kept]
    assert sorted(told, key=str) == [("failed", "RESULT_NOT_SERIALISABLE"), ("success", None)]


def test_a_result_that_is_too_large(live: Live) -> None:
    name = live.deploy(SOURCE, **{**SPEC, "memory_limit_mb": 256})
    got = live.ask("POST", f"/fn/{name}", {"do": "too_much"})
    assert (got.status, got.code) == (500, "RESULT_TOO_LARGE")


def test_output_closed_is_no_failure(bad: Bad) -> None:
    assert bad("closes_output")["error_code"] in (None, "HANDLER_ERROR")


def test_answers_twice(live: Live, bad: Bad) -> None:
    """Answers that nobody asked for end the instance: they could be taken for those of a later caller."""
    name = live.deploy(SOURCE, **{**SPEC, "max_instances": 1})
    live.ask("POST", f"/fn/{name}", {"do": "twice"})
    for n in range(3):
        assert live.call(name, {"do": "remembers", "n": n}) == [{"do": "remembers", "n": i} for i in range(n + 1)], (
            "an answer of the last caller's"
        )


def test_a_stream_that_breaks(live: Live, bad: Bad) -> None:
    import http.client

    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        live.ask("POST", "/fn/bad-days", {"do": "streams_and_raises"})
    assert bad("remembers")["status"] == "success"


STREAM_ENDS = [
    ("raises", "failed", "HANDLER_ERROR", "main.Odd"),
    ("exits", "failed", "HANDLER_ERROR", "SystemExit"),
    ("sleeps", "timeout", "INVOCATION_TIMEOUT", "InvocationTimeout"),
    ("eats_slowly", "failed", "HANDLER_OUT_OF_MEMORY", "OutOfMemory"),
    ("killed", "failed", "INSTANCE_DIED", "InstanceDied"),
    ("unserialisable", "failed", "RESULT_NOT_SERIALISABLE", "_quilt_guest.failure.NotSerialisable"),
]


@pytest.mark.parametrize(("then", "status", "code", "kind"), STREAM_ENDS)
def test_what_ends_a_stream_is_told_by_its_record(live: Live, then: str, status: str, code: str, kind: str) -> None:
    """By both ways of invoking, with all that is told of a call that fails at once."""
    import http.client

    limit_s = 2 if status == "timeout" else patience(10)
    name = live.deploy(SOURCE, **{**SPEC, "timeout_seconds": limit_s})
    answered = live.invocation(name, {"do": "streams_and", "then": then})
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        live.ask("POST", f"/fn/{name}", {"do": "streams_and", "then": then})
    listed = f"/api/functions/{live.id(name)}/invocations"
    kept = wait_for(lambda: (found := live.ok("GET", listed)["invocations"]) and len(found) == 2 and found, "records")
    for record in (answered, *kept):
        assert (record["status"], record["error_code"]) == (status, code), record
        assert record["error"]["type"] == kind
        traced = record["error"]["traceback"] or ""
        assert ('File "/fn/main.py"' in traced) == (code == "HANDLER_ERROR")


def test_a_global_is_not_seen_by_the_next_instance(live: Live) -> None:
    name = live.deploy(SOURCE, **SPEC)
    assert live.call(name, {"do": "remembers"}) == [{"do": "remembers"}]
    assert len(live.call(name, {"do": "remembers"})) == 2, "the same instance"
    live.drop_instances(name)
    assert len(live.call(name, {"do": "remembers"})) == 1
    live.drop_instances(name, template=True)
    assert len(live.call(name, {"do": "remembers"})) == 1


def test_children_left_behind_end_with_the_instance(live: Live) -> None:
    from tests.integration import census

    name = live.deploy(SOURCE, **SPEC)
    live.call(name, {"do": "remembers"})
    assert live.call(name, {"do": "leaves_children"}) == "left"
    live.drop_instances(name, template=True)
    live.delete(name)

    def sleepers() -> list[int]:
        return [p for p in census.processes(live) if b"1000" in _command(p)]

    wait_for(lambda: not sleepers(), "the children to end")


def _command(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.mark.parametrize(("what", "said"), [("digs", "dug"), ("locks", "locked")])
def test_files_that_are_hard_to_remove(live: Live, what: str, said: str) -> None:
    """A tree of thousands of folders, and folders that may not be read: gone with the instance, and so is the kit."""
    name = live.deploy(SOURCE, **SPEC)
    assert live.call(name, {"do": what}) == said
    live.delete(name)
    wait_for(lambda: not list((live.root_dir / "kits").glob("ins_*")) or _only_of_others(live), "the kit to go")


def _only_of_others(live: Live) -> bool:
    """No kit with a deep or a locked tree is left."""
    return not any(
        (kit / "upper/tmp" / name).exists() for kit in (live.root_dir / "kits").iterdir() for name in ("d", "a")
    )


def test_files_that_are_hard_to_remove_made_at_import(live: Live) -> None:
    name = live.create("""
        import os
        os.chdir("/tmp")
        for _ in range(1500):
            os.mkdir("d"); os.chdir("d")
        os.chdir("/")
        def handler(event): return 1
    """)
    got = live.ask("POST", f"/api/functions/{live.id(name)}/deploy")
    assert got.status in (200, 422)
    live.delete(name)


def test_writes_are_seen_by_no_other_instance(live: Live) -> None:
    name = live.deploy(
        """
        import os, time
        PLACES = ["/tmp/x", "/var/tmp/x", "/dev/shm/x", "/root/x", "/etc/x", "/opt/quilt/x", "/fn/x", "/x", "/run/x"]
        def handler(event):
            found = [p for p in PLACES if os.path.exists(p)]
            for place in PLACES:
                with open(place, "w") as file:
                    file.write("mine")
            time.sleep(event.get("s", 0))
            return found, os.environ["QUILT_INSTANCE_ID"]
        """,
        max_instances=3,
    )
    answers = [a.json() for a in live.many(3, lambda _: live.ask("POST", f"/fn/{name}", {"s": 0.4}), 3)]
    assert len({instance for _, instance in answers}) == 3
    assert [found for found, _ in answers] == [[], [], []]
    live.drop_instances(name)
    assert live.call(name)[0] == []
    live.drop_instances(name, template=True)
    assert live.call(name)[0] == []


def test_an_import_that_goes_wrong_leaves_nothing(live: Live) -> None:
    for source, words in (
        ("held = bytearray(b'x' * (1 << 30))", "96 MB"),
        ("import os\nwhile True:\n  try: os.fork()\n  except OSError: os._exit(1)", "ended"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended"),
        ("import os; os.closerange(3, 1000)", "ended"),
    ):
        name = live.create(source + "\ndef handler(event): pass\n", **SPEC)
        got = live.ask("POST", f"/api/functions/{live.id(name)}/deploy")
        assert (got.status, got.code) == (422, "BUILD_FAILED"), got.body
        assert words in got.json()["error"]


def test_delete_while_a_new_version_is_built_leaves_no_container(live: Live) -> None:
    folder = live.root_dir / "containers"
    others = set(folder.iterdir())
    name = live.deploy("def handler(event): return event")
    live.ok("PUT", f"/api/functions/{live.id(name)}", {"description": "built in the background"})
    live.delete(name)
    wait_for(lambda: not set(folder.iterdir()) - others, "its containers to go")
