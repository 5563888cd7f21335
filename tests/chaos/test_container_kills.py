"""kill -9 of node and of spawner at each step of a container's life: afterwards its state is legal, it can be used or
deleted, and nothing is left over. And restarts of the whole platform.

Not here: the same for functions (`test_kills`) and volumes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.integration import census
from tests.integration.live import Live, running, wait_for

NAME = "chaos"
STANDS = ("created", "running", "paused", "exited", "error")
MOMENT_S = 0.004
"""After the request was sent: mostly in the middle of it. More moments find no more, and each costs seconds."""


def new(live: Live, **spec: Any) -> str:
    return str(live.ok("POST", "/api/containers", {"name": NAME, **spec})["container_id"])


def again(live: Live, method: str, path: str, body: Any = None) -> Any:
    """An answer of ours, also while the node is being started again or the spawner is away."""

    def asked() -> Any:
        with suppress(OSError):
            got = live.ask(method, path, body)
            return got if got.status != 503 else None
        return None

    return wait_for(asked, f"{method} {path}")


def until_it_stands(live: Live) -> dict[str, Any] | None:
    """Its record once nothing is half done any more; None where there is none."""

    def seen() -> Any:
        got = again(live, "GET", f"/api/containers/by-name/{NAME}")
        if got.status == 404:
            return "none"
        found = got.json()
        return found if found["state"] in STANDS and (found["state"] != "running" or found["exec_ready"]) else None

    found = wait_for(seen, "a state that stands")
    return None if found == "none" else dict(found)


def run(live: Live, ctr: str, text: str) -> Any:
    got = again(live, "POST", f"/api/containers/{ctr}/exec", {"command": ["sh", "-c", text]})
    assert got.status == 200, got.body
    return got.json()["stdout"]


def verb(live: Live, path: str, body: Any = None) -> Callable[[str], None]:
    return lambda ctr: _ignoring(live, "POST", f"/api/containers/{ctr}/{path}", body)


def _ignoring(live: Live, method: str, path: str, body: Any = None) -> None:
    with suppress(OSError):
        live.ask(method, path, body)


@pytest.mark.parametrize("victim", ["node", "spawner"])
@pytest.mark.parametrize("step", ["create", "stop", "start", "pause", "resume", "resize", "delete"])
def test_killed_in_the_middle(live: Live, step: str, victim: str) -> None:
    ctr = "" if step == "create" else new(live, command=["sleep", "1000"])
    if ctr:
        run(live, ctr, "echo kept > /root/file")
    if step == "start":
        live.ok("POST", f"/api/containers/{ctr}/stop", {"timeout_s": 0})
    if step == "resume":
        live.ok("POST", f"/api/containers/{ctr}/pause")
    asks: dict[str, Callable[[str], None]] = {
        "create": lambda _: _ignoring(live, "POST", "/api/containers", {"name": NAME, "command": ["sleep", "1000"]}),
        "delete": lambda ctr: _ignoring(live, "DELETE", f"/api/containers/{ctr}"),
        "stop": verb(live, "stop", {"timeout_s": 0.05}),
        "resize": lambda ctr: _ignoring(live, "POST", f"/api/elasticity/containers/{ctr}/resize", {"pids_limit": 99}),
        **{name: verb(live, name) for name in ("start", "pause", "resume")},
    }
    thread = threading.Thread(target=asks[step], args=(ctr,))
    thread.start()
    time.sleep(MOMENT_S)
    live.kill(victim)
    thread.join()
    found = until_it_stands(live)
    if found is None:
        assert step in ("create", "delete")
        return
    ctr = found["container_id"]
    if found["state"] != "running":
        begun = again(live, "POST", f"/api/containers/{ctr}/{'resume' if found['state'] == 'paused' else 'start'}")
        ended = again(live, "GET", f"/api/operations/{begun.json()['operation_id']}?wait_s=30").json()
        assert ended["status"] == "succeeded", ended
    ready = until_it_stands(live)
    assert ready is not None and ready["state"] == "running", (found, ready)
    assert ready["checks"]["network_configured"] is True
    assert run(live, ctr, "cat /root/file 2>/dev/null") == ("" if step == "create" else "kept\n")
    assert again(live, "DELETE", f"/api/containers/{ctr}").status == 200
    assert until_it_stands(live) is None


def test_the_node_is_replaced_and_containers_run_on(live: Live) -> None:
    """With commands in them, and commands are served at once."""
    ctr = new(live, command=["sh", "-c", "echo begun; sleep 1000"])
    before = live.ok("GET", f"/api/containers/{ctr}")
    pid = run(live, ctr, "sleep 1000 >/dev/null 2>&1 & echo $!")
    live.kill("node")
    assert run(live, ctr, f"kill -0 {pid.strip()} && echo on") == "on\n"
    after = live.ok("GET", f"/api/containers/{ctr}")
    for name in ("pid", "ip_address", "started_at", "exit_code", "state"):
        assert after[name] == before[name]
    live.ok("DELETE", f"/api/containers/{ctr}")


def test_inits_that_die_while_no_node_is_there(live: Live) -> None:
    """Told apart from the platform's end; and one that has to come back does."""
    ctr = new(live)
    other = live.ok("POST", "/api/containers", {"name": "chaos-always", "restart": "always"})
    pids = [live.ok("GET", f"/api/containers/{c}")["pid"] for c in (ctr, other["container_id"])]
    node = live.pid("node")
    os.kill(node, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    live.kill("node")
    found = until_it_stands(live)
    assert found is not None and (found["state"], found["exit_reason"]) == ("exited", "init_died")
    wait_for(lambda: live.ok("GET", "/api/containers/by-name/chaos-always")["state"] == "running", "it to be back")
    for c in (ctr, other["container_id"]):
        live.ok("DELETE", f"/api/containers/{c}")


def test_restarts_of_the_platform_keep_layers() -> None:
    """After SIGTERM, and after kill -9 of the supervisor; a command is told before its end."""
    with running() as live:
        told = "trap 'echo told > /root/told; exit 0' TERM; while :; do sleep 0.05; done"
        ctr = new(live, command=["sh", "-c", told])
        always = live.ok("POST", "/api/containers", {"name": "chaos-always", "restart": "always"})
        stopped = live.ok("POST", "/api/containers", {"name": "chaos-stopped", "restart": "always"})
        run(live, ctr, "echo kept > /root/file; mkdir -p /var/lib/deep/er; echo 1 > /var/lib/deep/er/x; sync")
        live.ok("POST", f"/api/containers/{stopped['container_id']}/stop", {"timeout_s": 0})
        for kill in (False, True):
            if kill:
                assert live.process is not None and live.process.stdout is not None
                live.process.kill()
                live.process.wait()
                live.process.stdout.close()
            else:
                live.stop()
            live.start()
            found = live.ok("GET", f"/api/containers/{ctr}")
            assert (found["state"], found["exit_reason"]) == ("exited", "platform_ended")
            path = f"/api/containers/{always['container_id']}"
            wait_for(lambda path=path: live.ok("GET", path)["state"] == "running", "the other to be back")  # type: ignore[misc]
            assert live.ok("GET", f"/api/containers/{stopped['container_id']}")["state"] == "exited"
            live.ok("POST", f"/api/containers/{ctr}/start")
            ready = wait_for(lambda: (r := until_it_stands(live)) and r["state"] == "running" and r, "it to run")
            assert ready["ip_address"] == found["ip_address"]
            assert run(live, ctr, "cat /root/file /var/lib/deep/er/x /root/told") == "kept\n1\ntold\n"
        for c in (ctr, always["container_id"], stopped["container_id"]):
            live.ok("DELETE", f"/api/containers/{c}")
        assert not list((live.root_dir / "machines").glob("ctr_*"))
        assert subprocess.run(["grep", "-c", str(live.settings.run_path), "/proc/self/mounts"]).returncode == 1


def test_lost_records_cost_nobody_their_files(live: Live) -> None:
    """A Redis that knows nothing of a container: it is stopped. When the records are back, so is what it wrote."""
    ctr = new(live)
    run(live, ctr, "echo kept > /root/kept")
    known = live.redis("KEYS", "quilt:{containers:default}*").split()
    for key in known:
        live.redis("RENAME", key, f"away:{key}")
    live.kill("node")
    assert again(live, "GET", f"/api/containers/{ctr}").status == 404
    wait_for(lambda: not any(ctr in group.name for group in census.groups(live)), "its cgroup to go")
    for key in known:
        live.redis("RENAME", f"away:{key}", key)
    live.kill("node")
    wait_for(lambda: (until_it_stands(live) or {}).get("state") == "exited", "its record to say that it has ended")
    started = again(live, "POST", f"/api/containers/{ctr}/start").json()
    wait_for(lambda: again(live, "GET", started["status_url"]).json()["status"] == "succeeded", "its start")
    assert run(live, ctr, "cat /root/kept") == "kept\n"
    assert again(live, "DELETE", f"/api/containers/{ctr}").status == 200
