"""The life of a function on a real platform: deploy, invoke, versions, update, delete, and a deploy that fails.

Not here: what a handler can do wrong (`test_bad_days`) and what a caller can (`test_bad_input`).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

from tests.integration.live import Live, wait_for

ECHO = "def handler(event): return event"


def test_each_way_to_start_and_then_warm(live: Live) -> None:
    name = live.deploy(ECHO)
    assert [p["available"] for p in live.record(name)["start_paths"]] == [True, True, True]
    assert live.ask("POST", f"/fn/{name}", {"a": 1}).start == "fork"
    warm = live.ask("POST", f"/fn/{name}", {"a": [1, None, "ü"]})
    assert (warm.start, warm.json()) == ("warm", {"a": [1, None, "ü"]})
    live.drop_instances(name, template=True)
    assert live.ask("POST", f"/fn/{name}", {}).start == "restore"
    live.drop_instances(name)
    assert live.ask("POST", f"/fn/{name}", {}).start == "fork"
    live.drop_instances(name, template=True, snapshot=True)
    assert live.ask("POST", f"/fn/{name}", {}).start == "boot"
    live.drop_instances(name, template=True)
    assert live.ask("POST", f"/fn/{name}", {}).start == "restore", "a boot takes a new snapshot"


def test_a_record_of_each_invocation_with_its_output(live: Live) -> None:
    name = live.deploy("""
        import sys
        def handler(event):
            print("out", event["n"]); print("err", event["n"], file=sys.stderr)
            return event["n"] * 2
    """)
    got = live.invocation(name, {"n": 21})
    assert (got["status"], got["result"], got["start"], got["cold_start"]) == ("success", 42, "fork", True)
    assert (got["stdout"], got["stderr"], got["truncated"]) == ("out 21\n", "err 21\n", False)
    path = f"/api/functions/{live.id(name)}/invocations/{got['invocation_id']}"
    kept = wait_for(lambda: (a := live.ask("GET", path)).status == 200 and a.json(), "the record")
    assert (kept["status"], kept["stdout"]) == ("success", "out 21\n")


def test_environment_of_one_invocation_is_gone_at_the_next(live: Live) -> None:
    name = live.deploy("import os\ndef handler(event): return os.environ.get('EXTRA')", max_instances=1)
    assert live.invocation(name, {}, environment={"EXTRA": "1"})["result"] == "1"
    assert live.invocation(name, {})["result"] is None


def test_an_update_drains_the_old_version(live: Live) -> None:
    """What runs is finished by the version it began on; later calls go to the new one; the old instance goes."""
    begun = time.monotonic()
    name = live.deploy("""
        import time
        def handler(event):
            time.sleep(event.get("sleep_s", 0))
            return "old"
    """)
    longer_s = 1.0 + 2.0 * (time.monotonic() - begun)  # than the new version's build takes on this machine
    answers: list[object] = []
    slow = threading.Thread(target=lambda: answers.append(live.call(name, {"sleep_s": longer_s})))
    slow.start()
    wait_for(lambda: live.pool(name)["busy_count"] == 1, "the slow invocation to run")
    live.ok("PUT", f"/api/functions/{live.id(name)}", {"source": "def handler(event): return 'new'"})
    live.ok("POST", f"/api/functions/{live.id(name)}/deploy")
    assert live.call(name) == "new"
    assert not answers, "the old invocation goes on while the new version serves"
    slow.join()
    assert answers == ["old"]
    record = live.record(name)
    assert (record["version"], record["current_version"], record["state"]) == (2, 2, "active")
    wait_for(lambda: {i["version"] for i in live.pool(name)["instances"]} == {2}, "the old instances to end")


def test_a_deploy_that_fails_leaves_the_old_version_serving(live: Live) -> None:
    name = live.deploy("def handler(event): return 'good'")
    live.call(name)
    function_id = live.id(name)
    for source, words in (
        ("import nothing_of_that_name\ndef handler(event): pass", "ModuleNotFoundError"),
        ("def another(event): pass", "handler"),
        ("def handler(event:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import os; os._exit(7)", "ended"),
        ("import sys; sys.exit(7)", "SystemExit"),
    ):
        live.ok("PUT", f"/api/functions/{function_id}", {"source": source})
        got = live.ask("POST", f"/api/functions/{function_id}/deploy")
        assert (got.status, got.code) == (422, "BUILD_FAILED"), got.body
        assert words in got.json()["error"] + str(got.json()["details"].get("traceback"))
        assert got.json()["details"]["stage"] == "import"
        assert live.call(name) == "good"
        record = live.record(name)
        assert (record["current_version"], record["state"]) == (1, "active")
        assert record["error_message"]


def test_the_traceback_of_an_import_that_fails_names_the_users_line(live: Live) -> None:
    name = live.create("x = 1\n\ny = {}['missing']\n")
    got = live.ask("POST", f"/api/functions/{live.id(name)}/deploy")
    trace = got.json()["details"]["traceback"]
    assert "main.py" in trace and "line 3" in trace and "KeyError" in trace
    assert "_quilt_guest" not in trace
    refused = live.ask("POST", f"/fn/{name}", {})
    assert refused.status in (409, 503), refused.body


def test_output_of_any_kind_at_import_does_not_fail_a_deploy(live: Live) -> None:
    name = live.deploy("""
        import sys
        sys.stdout.buffer.write(bytes(range(256)) * 4000); sys.stdout.flush()
        print("ü€" * 40000)
        def handler(event): return 1
    """)
    assert live.call(name) == 1


def test_what_is_printed_before_the_snapshot_is_in_the_log(live: Live) -> None:
    name = live.deploy(
        """
        import os, sys
        print("at import")
        os.write(2, b"by hand\\n")
        def before(): print("in the hook", file=sys.stderr)
        def handler(event):
            print("in the handler")
            return 1
        """,
        warmup_event={}, hooks={"before_snapshot": ["main:before"]},
    )  # fmt: skip
    got = live.ask("GET", f"/api/functions/{live.id(name)}/logs")
    lines = [json.loads(line) for line in got.body.splitlines()]
    assert {line["text"] for line in lines} == {"at import", "by hand", "in the hook", "in the handler"}
    assert {line["invocation_id"] for line in lines} == {None}


def test_a_process_that_ends_at_import_has_said_what_it_wrote(live: Live) -> None:
    for source in (
        "import os; os.write(2, b'no licence'); os._exit(3)",
        "import os, signal; os.write(2, b'no licence'); os.kill(os.getpid(), signal.SIGKILL)",
        "import sys; print('no licence'); sys.exit(3)",
    ):
        name = live.create(source)
        got = live.ask("POST", f"/api/functions/{live.id(name)}/deploy")
        assert (got.status, got.json()["details"]["output"].strip()) == (422, "no licence")


def test_a_text_body_is_text_whatever_is_in_it(live: Live) -> None:
    for parameters in ("event", "event, context"):
        name = live.deploy(f"def handler({parameters}): return [type(event).__name__, event]")
        for content_type, body, seen in (
            ("text/plain", b"123", ["str", "123"]),
            ("text/plain; charset=latin-1", b"\xfc", ["str", "\u00fc"]),
            ("application/x-www-form-urlencoded", b"123", ["int", 123]),
        ):
            assert live.call(name, body, headers={"Content-Type": content_type}) == seen
        assert live.invocation(name, "123")["result"] == ["int", 123]
        refused = live.ask("POST", f"/fn/{name}", b"\xff", headers={"Content-Type": "text/plain"})
        assert (refused.status, refused.code) == (400, "INVALID_REQUEST")


def test_a_deleted_function_is_gone_at_once_and_its_running_invocation_is_finished(live: Live) -> None:
    name = live.deploy("import time\ndef handler(event): time.sleep(event.get('s', 0)); return 'done'")
    answers: list[object] = []
    slow = threading.Thread(target=lambda: answers.append(live.call(name, {"s": 1})))
    slow.start()
    wait_for(lambda: live.pool(name)["busy_count"] == 1, "the slow invocation to run")
    function_id = live.id(name)
    live.delete(name)
    assert live.ask("POST", f"/fn/{name}", {}).status == 404
    assert live.ask("GET", f"/api/functions/{function_id}").status == 404
    slow.join()
    assert answers == ["done"]
    wait_for(lambda: function_id not in live.redis("KEYS", "*"), "its keys to go")
    again = live.deploy(ECHO, name)
    assert live.call(again, 5) == 5


def test_more_calls_than_instances_wait_in_order(live: Live) -> None:
    name = live.deploy("import time\ndef handler(event): time.sleep(0.05); return time.monotonic()", max_instances=2)
    answers = live.many(20, lambda _: live.ask("POST", f"/fn/{name}", {}), 20)
    assert [a.status for a in answers] == [200] * 20
    assert live.pool(name)["total_count"] <= 2


def test_instances_at_a_minimum_and_scaled_to_zero(live: Live) -> None:
    name = live.deploy(ECHO, min_instances=2, idle_timeout_seconds=1)
    wait_for(lambda: live.pool(name)["ready_count"] == 2, "the two instances")
    assert live.ask("POST", f"/fn/{name}", {}).start == "warm"
    zero = live.deploy(ECHO, idle_timeout_seconds=0.2)
    live.call(zero)
    wait_for(lambda: live.pool(zero)["total_count"] == 0, "the instance to go")
    assert live.ask("POST", f"/fn/{zero}", {}).start == "fork"


def test_one_invocation_each_with_cleanup_on_exit(live: Live) -> None:
    name = live.deploy("n = 0\ndef handler(event):\n global n\n n += 1\n return n", cleanup_on_exit=True)
    assert [live.call(name) for _ in range(3)] == [1, 1, 1]


def test_hooks_and_warmup(live: Live, function: Callable[..., str]) -> None:
    name = function(
        """
        import os
        seen = []
        def before(): seen.append(["before", os.environ.get("PLAIN"), os.environ.get("SECRET")])
        def after(): seen.append(["after", os.environ.get("PLAIN"), os.environ.get("SECRET")])
        def handler(event):
            seen.append(event)
            return seen
        """,
        environment={"PLAIN": "p"}, secrets={"SECRET": "s"}, warmup_event="warm-up",
        hooks={"before_snapshot": ["main:before"], "after_restore": ["main:after"]},
    )  # fmt: skip
    expected = [["before", "p", None], "warm-up", ["after", "p", "s"], {}]
    assert live.call(name) == expected
    live.drop_instances(name, template=True)
    assert live.call(name) == expected
    assert live.record(name)["secrets"] == ["SECRET"]


def test_a_hook_that_fails_says_so(live: Live) -> None:
    before = live.create(
        "def hook(): raise ValueError('not today')\ndef handler(event): pass", hooks={"before_snapshot": ["main:hook"]}
    )
    got = live.ask("POST", f"/api/functions/{live.id(before)}/deploy")
    assert (got.status, got.json()["details"]["stage"]) == (422, "hook")
    assert "not today" in got.json()["error"]


def test_a_warm_up_that_fails_is_told_once(live: Live) -> None:
    for body, told, in_trace in (
        ("return 1 / event['n']", "ZeroDivisionError: division by zero", "line 1, in handler"),
        ("return {1, 2}", "NotSerialisable: result is a builtins.set", ""),
        ("yield 1 / event['n']", "ZeroDivisionError: division by zero", "line 1, in handler"),
    ):
        name = live.create(f"def handler(event): {body}", warmup_event={"n": 0})
        got = live.ask("POST", f"/api/functions/{live.id(name)}/deploy").json()
        assert got["error"].startswith("the warm-up call failed: ") and told in got["error"]
        assert got["error"].count("failed") == 1 and "Traceback" not in got["error"]
        assert got["details"]["stage"] == "warmup"
        assert in_trace in got["details"]["traceback"] and "RuntimeError" not in got["details"]["traceback"]


def test_an_after_restore_hook_that_fails_fails_the_deploy(live: Live) -> None:
    name = live.deploy("def handler(event): return 'good'")
    ways = (("raise ValueError('not now')", "traceback"), ("os.write(2, b'not now'); os._exit(3)", "output"))
    for hook, told in ways:
        source = f"import os\ndef hook():\n    {hook}\ndef handler(event): pass"
        more = {"source": source, "hooks": {"after_restore": ["main:hook"]}}
        live.ok("PUT", f"/api/functions/{live.id(name)}", more)
        got = live.ask("POST", f"/api/functions/{live.id(name)}/deploy")
        assert (got.status, got.code, got.json()["details"]["stage"]) == (422, "BUILD_FAILED", "after_restore")
        assert "not now" in got.json()["details"][told]
        assert live.call(name) == "good"


def test_an_after_restore_hook_that_fails_later_says_where(live: Live) -> None:
    name = live.deploy(
        """
        import time
        DEPLOYED = time.time()
        def hook():
            if time.time() > DEPLOYED + 3:
                raise ValueError("not now")
        def handler(event): pass
        """,
        hooks={"after_restore": ["main:hook"]},
    )
    wait_for(lambda: live.ask("POST", f"/fn/{name}", {}).status == 503 or live.drop_instances(name), "the hook to fail")
    started = live.ask("POST", f"/fn/{name}", {})
    assert (started.status, started.code) == (503, "HOOK_FAILED")
    assert "line 6, in hook" in started.json()["details"]["traceback"]
