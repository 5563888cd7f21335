"""kill -9 of each process of the platform, Redis stopped, and a restart: functions answer again and nothing is left.

Not here: what functions do to themselves (tests/integration), and faults while a thousand run (`test_thousand`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration import census
from tests.integration.live import Answer, Live, running, wait_for
from tests.slowness import patience

ECHO = "def handler(event): return event"
SLOW = "import time\ndef handler(event):\n    time.sleep(event.get('s', 0))\n    return 'done'"


def answers_again(live: Live, name: str) -> Answer:
    def asked() -> Answer | None:
        try:
            got = live.ask("POST", f"/fn/{name}", {"a": 1})
        except OSError:
            return None
        return got if got.status == 200 else None

    found: Answer = wait_for(asked, f"{name} to answer again", 20)
    return found


@pytest.mark.parametrize("victim", ["node", "spawner", "redis"])
def test_a_process_killed_comes_back_and_functions_answer(live: Live, victim: str) -> None:
    name, other = live.deploy(ECHO), live.deploy(SLOW)
    live.call(name)
    live.call(other)
    live.kill(victim)
    assert answers_again(live, name).json() == {"a": 1}
    live.drop_instances(name)
    assert live.ask("POST", f"/fn/{name}", {}).start == "fork", "the live template was adopted, or is still there"
    live.drop_instances(name, template=True)
    assert live.ask("POST", f"/fn/{name}", {}).start == "restore", "its snapshot too"
    assert answers_again(live, other).status == 200
    again = live.deploy(ECHO)
    assert live.call(again, 5) == 5
    wait_for(lambda: live.ask("GET", "/health").status == 200, "health")


@pytest.mark.parametrize("victim", ["node", "spawner", "redis"])
def test_killed_while_invocations_run(live: Live, victim: str) -> None:
    """Those on the way may be lost with the node, and with nothing else; afterwards everything serves again."""
    name = live.deploy(SLOW, max_instances=4)
    answers: list[object] = []

    def ask(_: int) -> None:
        try:
            answers.append(live.ask("POST", f"/fn/{name}", {"s": 1.0}).status)
        except OSError as error:
            answers.append(type(error).__name__)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: live.pool(name)["busy_count"] == 3, "three to run")
    live.kill(victim)
    for thread in threads:
        thread.join()
    if victim != "node":
        assert answers == [200, 200, 200]
    assert answers_again(live, name).status == 200


def test_killed_while_a_deploy_runs(live: Live) -> None:
    """The old version goes on, the deploy that was cut short can be done again, nothing half made is left."""
    name = live.deploy("def handler(event): return 'old'")
    for victim in ("spawner", "node"):
        live.ok("PUT", f"/api/functions/{live.id(name)}", {"source": "import time; time.sleep(1.5)\n" + ECHO})

        def deploy() -> None:
            try:
                live.ask("POST", f"/api/functions/{live.id(name)}/deploy")
            except OSError:
                return

        thread = threading.Thread(target=deploy)
        thread.start()
        wait_for(lambda: live.record(name)["state"] in ("deploying",) or _building(live), "the build to begin")
        live.kill(victim)
        thread.join()
        assert answers_again(live, name)
    live.ok("PUT", f"/api/functions/{live.id(name)}", {"source": "def handler(event): return 'new'"})
    wait_for(lambda: live.ask("POST", f"/api/functions/{live.id(name)}/deploy").status == 200, "a deploy")
    wait_for(lambda: live.call(name) == "new", "the new version")


def _building(live: Live) -> bool:
    return len(list((live.root_dir / "containers").glob("ctr_*"))) > 1


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_functions_go_on_while_redis_is_away(live: Live) -> None:
    """Warm and forked invocations are served; what must be kept answers 503; records are there when it is back."""
    name = live.deploy(SLOW, max_instances=3)
    live.call(name)
    function_id = live.id(name)
    with stopped(live.pid("redis")):
        assert live.ask("POST", f"/fn/{name}", {}, timeout_s=10).start == "warm"
        at_once = {"s": patience(0.5)}
        both = live.many(2, lambda _: live.ask("POST", f"/fn/{name}", at_once, timeout_s=10), 2)
        assert sorted(str(a.start) for a in both) == ["fork", "warm"]
        sent = {"name": "not-now", "handler": "main:handler", "source": ECHO}
        got = live.ask("POST", "/api/functions", sent, timeout_s=30)
        assert (got.status, got.code) == (503, "REGISTRY_UNAVAILABLE")
        got = live.ask("PUT", f"/api/functions/{function_id}", {"source": ECHO}, timeout_s=30)
        assert (got.status, got.code) == (503, "REGISTRY_UNAVAILABLE")
        assert float(got.headers["retry-after"]) > 0
        for _ in range(20):
            assert live.ask("POST", f"/fn/{name}", {}, timeout_s=10).status == 200
    path = f"/api/functions/{live.id(name)}/invocations?limit=100"
    wait_for(lambda: len(live.ok("GET", path)["invocations"]) == 24, "the records")
    assert live.ask("GET", "/api/functions/by-name/not-now").status == 404


def test_everything_is_killed_at_once(live: Live) -> None:
    name = live.deploy(ECHO)
    live.call(name)
    for victim in ("node", "spawner", "redis"):
        os.kill(live.pid(victim), signal.SIGKILL)
    assert answers_again(live, name).status == 200
    wait_for(lambda: all(c["state"] == "ready" for c in live.children().values()), "all to be ready")


def test_templates_and_instances_killed_from_outside(live: Live) -> None:
    """As the kernel does when memory is short: the next calls find another way."""
    name = live.deploy(ECHO)
    for _ in range(2):
        live.call(name)
        for pid in census.processes(live):
            if b"_quilt_guest.template" in _command(pid):
                os.kill(pid, signal.SIGKILL)
        assert answers_again(live, name).status == 200


def _command(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_a_restart_keeps_functions_and_snapshots() -> None:
    """After SIGTERM, and after kill -9 of the supervisor itself: the first start is a restore, not a boot."""
    with running() as live:
        name = live.deploy("import time\nAT = time.time()\ndef handler(event): return AT", environment={"A": "b"})
        paused = live.deploy(ECHO)
        live.ok("POST", f"/api/functions/{live.id(paused)}/pause")
        first = live.call(name)
        record = live.record(name)
        pids = census.processes(live)
        live.stop()
        assert not [pid for pid in pids if pid in census.parents() and b"quilt" in _command(pid)]
        assert not census.groups(live)
        live.start()
        got = live.ask("POST", f"/fn/{name}", {})
        assert (got.start, got.json()) == ("restore", first)
        assert live.record(paused)["state"] == "paused"
        for field in ("id", "version", "current_version", "environment", "created_at", "bundle_id"):
            assert live.record(name)[field] == record[field]

        assert live.process is not None and live.process.stdout is not None
        live.process.kill()
        live.process.wait()
        live.process.stdout.close()
        live.start()
        assert live.ask("POST", f"/fn/{name}", {}).start in ("restore", "fork")
        assert live.call(name) == first


def test_a_container_that_is_killed_while_it_is_dumped_holds_nobody_up(live: Live) -> None:
    """At ten moments of it. At some of them CRIU would wait for a minute: the fixture doesn't, for what is left."""
    name = live.create(ECHO)
    deploy = f"/api/functions/{live.id(name)}/deploy"

    def dumps() -> list[Path]:
        return list(live.settings.run_path.glob("criu-dump-*"))

    for moment in range(10):
        live.ok("PUT", f"/api/functions/{live.id(name)}", {"environment": {"N": str(moment)}})
        thread = threading.Thread(target=live.ask, args=("POST", deploy))
        thread.start()
        wait_for(lambda deploying=thread: dumps() or not deploying.is_alive(), "the dump to begin")
        time.sleep(moment * 0.008)
        for group in census.groups(live):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for pid in (group / "cgroup.procs").read_text().split() if group.name.startswith("ctr_") else ():
                    os.kill(int(pid), signal.SIGKILL)
        thread.join()
        assert not dumps()
    live.ok("POST", deploy)
    assert live.call(name, 3) == 3


def test_a_snapshot_is_not_half_taken() -> None:
    """The spawner is killed while CRIU dumps: no snapshot is believed that was not finished."""
    with running() as live:
        name = live.create("held = bytearray(__import__('os').urandom(80 << 20))\n" + ECHO, memory_limit_mb=512)
        thread = threading.Thread(target=lambda: live.ask("POST", f"/api/functions/{live.id(name)}/deploy"))
        thread.start()
        snapshots = live.root_dir / "snapshots"
        wait_for(lambda: snapshots.exists() and list(snapshots.glob(".snp_*/images/pages-*")), "the dump to begin")
        live.kill("spawner")
        thread.join()
        wait_for(lambda: live.ask("POST", f"/api/functions/{live.id(name)}/deploy").status == 200, "a deploy")
        assert live.call(name, 3) == 3
        wait_for(lambda: not list(snapshots.glob(".snp_*")), "the half of it to go")
        live.drop_instances(name, template=True)
        assert live.call(name, 4) == 4
