"""kill -9 of node and of spawner at each step of a container's life: afterwards its state is legal, it can be used or
deleted, and nothing is left over. And restarts of the whole platform.

Not here: the same for functions (`test_kills`) and volumes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tarfile
import threading
from contextlib import suppress
from typing import Any

import pytest

from tests.integration import census
from tests.integration.live import PATIENCE_S, Answer, Live, running, wait_for
from tests.integration.volume_tools import MIB, tar

NAME, SECOND, RENAMED = "chaos", "chaos-second", "chaos-renamed"
STANDS = ("created", "running", "paused", "exited", "error")
MOMENT_S = 0.004
"""After the request was sent: mostly in the middle of it. More moments find no more, and each costs seconds."""
SLEEPS = ["sleep", "1000"]
STEPS: dict[str, tuple[str, str, Any]] = {
    "create": ("POST", "/api/containers", {"name": NAME, "command": SLEEPS}),
    "batch": ("POST", "/api/containers/batch", {"items": [{"name": NAME, "command": SLEEPS}, {"name": SECOND}]}),
    "start": ("POST", "/api/containers/{ctr}/start", None),
    "stop": ("POST", "/api/containers/{ctr}/stop", {"timeout_s": 0.05}),
    "kill": ("POST", "/api/containers/{ctr}/kill", None),
    "pause": ("POST", "/api/containers/{ctr}/pause", None),
    "resume": ("POST", "/api/containers/{ctr}/resume", None),
    "resize": ("POST", "/api/elasticity/containers/{ctr}/resize", {"pids_limit": 99}),
    "rename": ("POST", "/api/containers/{ctr}/rename", {"new_name": RENAMED}),
    "environment": ("PATCH", "/api/containers/{ctr}/env", {"environment": {"COLOUR": "green"}}),
    "archive": (
        "POST", "/api/containers/{ctr}/archive?path=/root/in",
        tar(("a", tarfile.REGTYPE, bytes(4 * MIB)), ("b", tarfile.REGTYPE, b"the end"), mode="w"),
    ),
    "delete": ("DELETE", "/api/containers/{ctr}", None),
}  # fmt: skip
AT_ONCE = ("kill", "batch", "archive", "rename", "environment")
"""These have a kill in common, each on a container of its own: with each kill the supervisor waits longer. It comes
when the first of them is answered.
"""
TENANT = {"X-Tenant-Id": "default"}


def new(live: Live, name: str = NAME, **spec: Any) -> str:
    return str(live.ok("POST", "/api/containers", {"name": name, **spec})["container_id"])


def again(live: Live, method: str, path: str, body: Any = None) -> Any:
    """An answer of ours, also while the node is being started again or the spawner is away."""

    def asked() -> Any:
        with suppress(OSError):
            got = live.ask(method, path, body)
            return got if got.status != 503 else None
        return None

    return wait_for(asked, f"{method} {path}")


def until_it_stands(live: Live, where: str = f"by-name/{NAME}") -> dict[str, Any] | None:
    """Its record once nothing is half done any more; None where there is none."""

    def seen() -> Any:
        got = again(live, "GET", f"/api/containers/{where}")
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


def until_no_operation_is_open(live: Live) -> None:
    def ended() -> bool:
        listed = again(live, "GET", "/api/operations?limit=10").json()["operations"]
        return all(each["completed_at"] for each in listed)

    wait_for(ended, "every operation to have ended")


@pytest.mark.parametrize("victim", ["node", "spawner"])
@pytest.mark.parametrize("steps", [*((step,) for step in STEPS if step not in AT_ONCE), AT_ONCE], ids="-".join)
def test_killed_in_the_middle(live: Live, steps: tuple[str, ...], victim: str) -> None:
    containers = {step: ready_for(live, step) for step in steps}
    answers: dict[str, Answer] = {}
    answered = threading.Event()

    def ask(step: str) -> None:
        method, path, body = STEPS[step]
        with suppress(OSError):
            answers[step] = live.ask(method, path.format(ctr=containers[step]), body, headers=TENANT)
        answered.set()

    threads = [threading.Thread(target=ask, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    answered.wait(MOMENT_S if len(steps) == 1 else PATIENCE_S)
    live.kill(victim)
    for thread in threads:
        thread.join()
    assert all(answer.status < 300 or answer.status == 503 for answer in answers.values()), answers
    until_no_operation_is_open(live)
    for step, ctr in containers.items():
        assert_it_can_be_used(live, step, ctr, done=step in answers and answers[step].status < 300)


def ready_for(live: Live, step: str) -> str:
    """The id of a container that the step can be done to; nothing for one that makes its own."""
    if step in ("create", "batch"):
        return ""
    ctr = new(live, f"{NAME}-{step}", command=SLEEPS)
    run(live, ctr, "echo kept > /root/file")
    if step == "start":
        live.ok("POST", f"/api/containers/{ctr}/stop", {"timeout_s": 0})
    if step == "resume":
        live.ok("POST", f"/api/containers/{ctr}/pause")
    return ctr


def assert_it_can_be_used(live: Live, step: str, ctr: str, *, done: bool) -> None:
    """Or is not there; at the end it is deleted. `done`: the step was answered so, and stays."""
    where = ctr or f"by-name/{NAME}"
    found = until_it_stands(live, where)
    if step == "batch" and (second := until_it_stands(live, f"by-name/{SECOND}")) is not None:
        assert again(live, "DELETE", f"/api/containers/{second['container_id']}").status == 200
    if found is None:
        assert step in ("create", "batch", "delete")
        return
    assert step != "delete" or not done
    ctr = found["container_id"]
    if found["state"] != "running":
        begun = again(live, "POST", f"/api/containers/{ctr}/{'resume' if found['state'] == 'paused' else 'start'}")
        ended = again(live, "GET", f"/api/operations/{begun.json()['operation_id']}?wait_s=30").json()
        assert ended["status"] == "succeeded", ended
    ready = until_it_stands(live, where)
    assert ready is not None and ready["state"] == "running", (found, ready)
    assert ready["checks"]["network_configured"] is True
    assert run(live, ctr, "cat /root/file 2>/dev/null") == ("" if step in ("create", "batch") else "kept\n")
    if step == "kill":
        assert found["state"] == "exited" or not done
    elif step == "rename":
        assert ready["name"] == RENAMED or not done
        for name in (RENAMED, f"{NAME}-rename"):
            status = again(live, "GET", f"/api/containers/by-name/{name}").status
            assert status == (200 if name == ready["name"] else 404), name
    elif step == "environment":
        values = again(live, "GET", f"/api/containers/{ctr}/env").json()["environment"]
        assert values == {"COLOUR": "green"} or (values == {} and not done)
        assert run(live, ctr, "echo $COLOUR").strip() == values.get("COLOUR", "")
    elif step == "archive":
        assert run(live, ctr, "cat /root/in/* 2>/dev/null | wc -c").strip() in ("0", str(4 * MIB + len("the end")))
        wait_for(lambda: run(live, ctr, "ls -A / | grep quilt- || true") == "", "what was half unpacked to go")
    assert again(live, "DELETE", f"/api/containers/{ctr}").status == 200
    assert until_it_stands(live, where) is None


def test_a_command_goes_on_while_the_spawner_is_replaced(live: Live) -> None:
    ctr = new(live)
    answers: list[Answer] = []
    command = {
        "command": ["sh", "-c", "echo begun > /root/begun; while [ ! -e /root/go ]; do sleep 0.02; done; echo on"]
    }
    thread = threading.Thread(target=lambda: answers.append(live.ask("POST", f"/api/containers/{ctr}/exec", command)))
    thread.start()
    wait_for(lambda: run(live, ctr, "cat /root/begun 2>/dev/null"), "the command to run")
    live.kill("spawner")
    run(live, ctr, "touch /root/go")
    thread.join()
    assert (answers[0].status, answers[0].json()["stdout"], answers[0].json()["exit_code"]) == (200, "on\n", 0)
    live.ok("DELETE", f"/api/containers/{ctr}")


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
