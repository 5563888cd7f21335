"""Lives of containers on a real platform: what outlives what, limits, wrong input, and many at once.

Not here: commands in them (test_commands), their network, volumes, and kill -9 of the platform's parts (tests/chaos).
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import assert_nothing_left, settled
from tests.integration.live import Live, wait_for
from tests.slowness import patience

HOG = "a=[]\nwhile True: a.append(bytearray(1<<20))"
COMMAND_TIMEOUT_MS = round(patience(30.0) * 1e3)


class Machines:
    """What a test makes, deleted at its end."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.made: list[str] = []

    def new(self, **spec: Any) -> dict[str, Any]:
        spec.setdefault("name", f"c-{os.urandom(4).hex()}")
        record: dict[str, Any] = self.live.ok("POST", "/api/containers", spec)
        self.made.append(record["container_id"])
        return record

    def get(self, ctr: str) -> dict[str, Any]:
        found: dict[str, Any] = self.live.ok("GET", f"/api/containers/{ctr}")
        return found

    def ask(self, ctr: str, verb: str, body: Any = None) -> Any:
        return self.live.ok("POST", f"/api/containers/{ctr}/{verb}", body)

    def run(self, ctr: str, *command: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(ctr, "exec", {"command": list(command), "timeout_ms": COMMAND_TIMEOUT_MS})
        return found

    def sh(self, ctr: str, text: str) -> str:
        done = self.run(ctr, "sh", "-c", text)
        assert done["exit_code"] == 0, done
        return str(done["stdout"])

    def begin(self, ctr: str, verb: str) -> dict[str, Any]:
        """An operation's end."""
        begun = self.ask(ctr, verb)
        found: dict[str, Any] = self.live.ok("GET", f"/api/operations/{begun['operation_id']}?wait_s=30")
        return found

    def refused(self, ctr: str, verb: str) -> tuple[int, str | None, str]:
        """Status, code, and the state that it names."""
        got = self.live.ask("POST", f"/api/containers/{ctr}/{verb}")
        return got.status, got.code, got.json()["details"]["state"]

    def commands(self, ctr: str) -> list[str]:
        """The command lines of what runs."""
        found = self.live.ok("GET", f"/api/containers/{ctr}/processes")["processes"]
        return [str(process["command"]) for process in found]

    def delete_all(self) -> None:
        for ctr in self.made:
            got = self.live.ask("DELETE", f"/api/containers/{ctr}")
            assert got.status in (200, 404), got.body


@pytest.fixture
def machines(live: Live) -> Iterator[Machines]:
    made = Machines(live)
    yield made
    made.delete_all()


def test_a_life(machines: Machines) -> None:
    made = machines.new(name="life", labels={"a": "b"}, environment={"GREETING": "hello"})
    ctr = made["container_id"]
    assert (made["state"], made["exec_ready"], made["network_ready"]) == ("running", True, True)
    assert made["checks"] == {
        "state_running": True, "init_responsive": True, "network_configured": True, "image_valid": True,
    }  # fmt: skip
    assert machines.sh(ctr, "hostname; echo $GREETING; id -u; echo kept > /root/file") == "life\nhello\n0\n"
    paused = machines.ask(ctr, "pause")
    assert (paused["state"], paused["exec_ready"]) == ("paused", False)
    got = machines.live.ask("POST", f"/api/containers/{ctr}/exec", {"command": ["true"]})
    assert (got.status, got.code) == (409, "CONTAINER_NOT_RUNNING")
    assert machines.refused(ctr, "start") == (409, "CONFLICT", "paused"), "and no operation that fails later"
    assert machines.begin(ctr, "resume")["status"] == "succeeded"
    assert machines.ask(ctr, "rename", {"new_name": "renamed"})["name"] == "renamed"
    stopped = machines.ask(ctr, "stop", {"timeout_s": 5})
    assert (stopped["state"], stopped["exec_ready"], stopped["pid"]) == ("exited", False, None)
    assert machines.refused(ctr, "resume") == (409, "CONFLICT", "exited")
    address = made["ip_address"]
    started = machines.begin(ctr, "start")
    assert (started["status"], started["result"]["ip_address"]) == ("succeeded", address)
    assert machines.sh(ctr, "cat /root/file; hostname") == "kept\nrenamed\n"
    assert machines.ask(ctr, "kill")["state"] == "exited"
    assert machines.live.ok("DELETE", f"/api/containers/{ctr}")["success"] is True
    assert machines.live.ask("GET", f"/api/containers/{ctr}").status == 404


def test_nothing_is_left_of_it(live: Live, machines: Machines) -> None:
    machines.new()
    machines.delete_all()  # what is made once for a tenant is made
    before = settled(live)
    made = [machines.new()["container_id"], machines.new(network="none", strict=True)["container_id"]]
    machines.sh(made[0], "cd /root; mkdir -p a/b; ln -s / a/root; sleep 1000 & echo $! > a/b/pid")
    machines.ask(made[1], "stop", {"timeout_s": 0})
    machines.ask(made[0], "pause")
    machines.delete_all()
    assert_nothing_left(live, before)


def test_a_pause_during_commands_whose_time_is_over(machines: Machines) -> None:
    """They are told at once, and what they ran is gone after the resume."""
    ctr = machines.new()["container_id"]
    command = {"command": ["sleep", "1234"], "timeout_ms": int(patience(2.0) * 1000)}
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(machines.live.ask, "POST", f"/api/containers/{ctr}/exec", command)
        stream = pool.submit(machines.live.ask, "POST", f"/api/containers/{ctr}/stream", command)
        wait_for(lambda: machines.commands(ctr).count("sleep 1234") == 2, "both to run")
        machines.ask(ctr, "pause")
        got = whole.result()
        frames = [json.loads(line) for line in stream.result().body.splitlines()]
    assert (got.status, got.code) == (409, "CONTAINER_NOT_RUNNING") and "resumed" in got.json()["error"]
    assert got.json()["details"]["state"] == "paused"
    assert [frame["type"] for frame in frames] == ["started", "timeout", "error"] and "resumed" in frames[2]["message"]
    assert machines.begin(ctr, "resume")["status"] == "succeeded"
    wait_for(lambda: "sleep 1234" not in machines.commands(ctr), "both to be gone")


def test_its_command(machines: Machines) -> None:
    ctr = machines.new(command=["sh", "-c", "echo out; echo err >&2; exit 5"])["container_id"]
    seen = wait_for(lambda: (r := machines.get(ctr))["exit_code"] is not None and r, "the command's end")
    assert (seen["state"], seen["exit_code"], seen["exit_reason"]) == ("running", 5, "exited")
    assert machines.sh(ctr, "echo still there") == "still there\n"
    lines = machines.live.ask("GET", f"/api/containers/{ctr}/logs").body.decode()
    assert '"out"' in lines and '"err"' in lines
    none = machines.new(command=["no-such-command"])
    assert (none["state"], none["exit_code"], none["exit_reason"]) == ("running", 127, "not_started")
    assert "no-such-command" in none["error_message"]


def test_a_followed_log_ends_with_its_command(machines: Machines) -> None:
    script = "echo one; sleep 1; echo two; echo three >&2; printf end"
    ctr = machines.new(command=["sh", "-c", script])["container_id"]
    for _ in range(2):  # while it runs, and afterwards
        lines = machines.live.ask("GET", f"/api/containers/{ctr}/logs?follow=true").body.splitlines()
        assert sorted(json.loads(line)["text"] for line in lines) == ["end", "one", "three", "two"]
    assert machines.get(ctr)["exit_code"] == 0


def test_its_working_directory_is_made(live: Live, machines: Machines) -> None:
    made = machines.new(working_directory="/srv/app/data", command=["sh", "-c", "pwd; echo kept > file"])
    ctr = made["container_id"]
    assert machines.sh(ctr, "pwd; stat -c '%U %a' .") == "/srv/app/data\nroot 755\n"
    wait_for(lambda: machines.get(ctr)["exit_code"] == 0, "its command to have ended well")
    machines.sh(ctr, "mv /srv/app /srv/old")
    machines.ask(ctr, "stop", {"timeout_s": 0})
    assert machines.begin(ctr, "start")["status"] == "succeeded"
    assert machines.sh(ctr, "pwd; cat ../../old/data/file") == "/srv/app/data\nkept\n"


def test_a_working_directory_that_cannot_be_made_refuses_the_container(live: Live, machines: Machines) -> None:
    machines.new()
    machines.delete_all()  # what is made once for a tenant is made
    before = settled(live)
    body = {"name": "nowhere", "working_directory": "/etc/passwd/x", "command": ["true"]}
    refused = live.ask("POST", "/api/containers", body)
    assert (refused.status, refused.code) == (422, "INVALID_VALUE")
    assert "/etc/passwd/x: Not a directory" in refused.json()["error"]
    assert refused.json()["details"]["fields"][0]["field"] == "working_directory"
    assert live.ask("GET", "/api/containers/by-name/nowhere").status == 404
    assert_nothing_left(live, before)


def test_a_command_is_restarted(machines: Machines) -> None:
    ctr = machines.new(command=["sh", "-c", "echo . >> /root/starts; exit 1"], restart="on-failure")["container_id"]
    wait_for(lambda: machines.get(ctr)["restart_count"] >= 2, "two restarts")
    wait_for(lambda: len(machines.sh(ctr, "cat /root/starts").split()) >= 3, "the third start to have run")


def test_out_of_memory_is_told_apart(machines: Machines) -> None:
    ctr = machines.new(command=["python3", "-c", HOG], memory_limit_mb=64)["container_id"]
    seen = wait_for(lambda: (r := machines.get(ctr))["exit_code"] is not None and r, "the kernel to kill it")
    assert (seen["state"], seen["exit_code"], seen["exit_reason"]) == ("running", 137, "out_of_memory")
    assert machines.live.ok("GET", f"/api/containers/{ctr}/metrics")["oom_kills"] >= 1


def test_out_of_memory_of_commands_is_told_apart(machines: Machines) -> None:
    ctr = machines.new(command=["sleep", "1000"], memory_limit_mb=64)["container_id"]
    hog: dict[str, Any] = {"command": ["python3", "-c", HOG]}
    done = machines.ask(ctr, "exec", hog)
    assert (done["exit_code"], done["exit_reason"]) == (137, "out_of_memory")
    frames = machines.live.ask("POST", f"/api/containers/{ctr}/stream", hog).body.splitlines()
    last = json.loads(frames[-1])
    assert (last["type"], last["code"], last["exit_reason"]) == ("exit", 137, "out_of_memory")
    killed = machines.ask(ctr, "exec", {"command": ["sh", "-c", "kill -9 $$"]})
    assert (killed["exit_code"], killed["exit_reason"]) == (137, "signalled")
    # Those kills were others': the container's own command was killed by hand.
    machines.sh(ctr, "pkill -9 -f '^sleep 100[0]'")
    seen = wait_for(lambda: (r := machines.get(ctr))["exit_code"] is not None and r, "the command's end")
    assert (seen["exit_code"], seen["exit_reason"]) == (137, "signalled")
    assert machines.run(ctr, "true")["exit_code"] == 0


def test_an_init_that_is_killed(machines: Machines) -> None:
    made = machines.new(command=["sleep", "1000"])
    ctr = made["container_id"]
    os.kill(made["pid"], signal.SIGKILL)
    seen = wait_for(lambda: (r := machines.get(ctr))["state"] == "exited" and r, "it to be seen")
    assert (seen["exit_code"], seen["exit_reason"]) == (137, "init_died")
    assert machines.begin(ctr, "start")["status"] == "succeeded"
    again = machines.new(restart="always")
    os.kill(again["pid"], signal.SIGKILL)
    back = wait_for(
        lambda: (r := machines.get(again["container_id"]))["restart_count"] == 1 and r["state"] == "running" and r,
        "it to be back",
    )
    assert back["pid"] != again["pid"]


def test_limits_are_changed_live(live: Live, machines: Machines) -> None:
    ctr = machines.new(memory_limit_mb=64, pids_limit=64)["container_id"]
    tenant = machines.get(ctr)["tenant_id"]
    path = f"/api/elasticity/containers/{ctr}/resize"
    assert live.ask("POST", path, {"memory_limit_mb": 128}).status == 400
    assert live.ask("POST", path, {"memory_limit_mb": 128}, headers={"X-Tenant-Id": "another"}).status == 403
    head = {"X-Tenant-Id": tenant}
    changed = live.ok("POST", path, {"memory_limit_mb": 256, "cpu_limit_percent": 50, "pids_limit": 99}, headers=head)
    assert (changed["memory_limit_mb"], changed["cpu_limit_percent"], changed["pids_limit"]) == (256, 50, 99)
    keeps = "python3 -c 'import time; a = b\"x\" * (150 << 20); time.sleep(1000)' >/dev/null 2>&1 & echo"
    machines.sh(ctr, keeps)
    metrics = f"/api/containers/{ctr}/metrics"
    wait_for(lambda: live.ok("GET", metrics)["memory_bytes"] > 150 << 20, "it to take memory")
    got = live.ask("POST", path, {"memory_limit_mb": 100}, headers=head)
    assert (got.status, "can't be limited" in got.json()["error"]) == (422, True), got.body
    assert machines.get(ctr)["memory_limit_mb"] == 256
    assert live.ok("GET", metrics)["memory_limit_bytes"] == 256 << 20


def test_processes_of_hostile_names(live: Live, machines: Machines) -> None:
    """However many there are, and whatever they call themselves: the list is whole."""
    ctr = machines.new(pids_limit=600)["container_id"]
    named = 'bash -c \'exec -a "$0" sleep 1000\' "$NAME" >/dev/null 2>&1 &'
    machines.sh(ctr, "NAME=$(printf '\\001\\377%.0s' $(seq 300)); for i in $(seq 250); do " + named + " done; echo")
    path = f"/api/containers/{ctr}/processes"
    found = wait_for(
        lambda: len(seen := [p for p in live.ok("GET", path)["processes"] if "\x01" in p["command"]]) == 250 and seen,
        "250 of them",
    )
    assert all(p["user"] == 0 and len(p["command"]) <= 200 for p in found)
    victim = found[0]["pid"]
    assert live.ok("DELETE", f"{path}/{victim}?signal=KILL") == {"success": True}
    wait_for(lambda: all(p["pid"] != victim for p in live.ok("GET", path)["processes"]), "its end")
    assert live.ask("DELETE", f"{path}/1").status == 409
    assert live.ask("DELETE", f"{path}/{victim}").status == 404
    assert [live.ask("DELETE", f"{path}/{pid}").status for pid in ("-1", "0", "x")] == [422] * 3
    assert live.ask("DELETE", f"{path}/2?signal=0015").status == 422


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        ({"image": "no-such-image"}, 404),
        ({"command": "sleep 1"}, 422),
        ({"command": []}, 422),
        ({"name": "Not A Name"}, 422),
        ({"name": None}, 422),
        ({"memory_limit_mb": 1}, 422),
        ({"network": "host"}, 422),
        ({"volumes": ["nothing-there:/data"]}, 404),
        ({"volumes": ["nothing-there:/proc"]}, 422),
        ({"restart": "sometimes"}, 422),
        ({"labels": {str(number): "" for number in range(65)}}, 422),
        ({"labels": {"a": "b" * 257}}, 422),
        ({"no_such_field": 1}, 422),
    ],
)
def test_wrong_input(live: Live, spec: dict[str, Any], status: int) -> None:
    got = live.ask("POST", "/api/containers", {"name": "wrong", **spec})
    assert got.status == status, got.body
    assert got.json()["error"]
    assert live.ask("GET", "/api/containers/by-name/wrong").status == 404


def test_a_taken_name(live: Live, machines: Machines) -> None:
    first = machines.new(name="taken")
    got = live.ask("POST", "/api/containers", {"name": "taken"})
    assert (got.status, got.code) == (409, "NAME_TAKEN")
    assert got.json()["details"]["container_id"] == first["container_id"]
    other = machines.new()
    got = live.ask("POST", f"/api/containers/{other['container_id']}/rename", {"new_name": "taken"})
    assert (got.status, got.code) == (409, "NAME_TAKEN")


def test_many_creates_of_one_name_make_one(live: Live, machines: Machines) -> None:
    answers = live.many(6, lambda _: live.ask("POST", "/api/containers", {"name": "only-one"}), 6)
    machines.made += [a.json()["container_id"] for a in answers if a.status == 201]
    assert sorted(a.status for a in answers) == [201, 409, 409, 409, 409, 409]


def test_two_deletes_at_once(live: Live, machines: Machines) -> None:
    ctr = machines.new()["container_id"]
    answers = live.many(2, lambda _: live.ask("DELETE", f"/api/containers/{ctr}"), 2)
    assert sorted(a.status for a in answers) == [200, 404]


@pytest.mark.parametrize("verb", ["stop", "delete"])
def test_a_verb_during_create(live: Live, verb: str) -> None:
    name = f"during-{verb}"
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(live.ask("POST", "/api/containers", {"name": name})))
    thread.start()
    found = wait_for(
        lambda: (a := live.ask("GET", f"/api/containers/by-name/{name}")).status == 200 and a, "its record"
    )
    path = f"/api/containers/{found.json()['container_id']}"
    got = live.ask("POST", path + "/stop", {}) if verb == "stop" else live.ask("DELETE", path)
    thread.join()
    assert (got.status, answers[0].status) == (200, 201)
    if verb == "stop":
        assert got.json()["state"] == "exited"
        live.ok("DELETE", path)
    assert live.ask("GET", path).status == 404


def test_time_to_live(live: Live, machines: Machines) -> None:
    ctr = machines.new(ttl_seconds=0.5)["container_id"]
    wait_for(lambda: live.ask("GET", f"/api/containers/{ctr}").status == 404, "its end")


def test_what_a_layer_holds_leads_nowhere(live: Live, machines: Machines) -> None:
    """A container's root has put links and files where the next start writes and mounts."""
    ctr = machines.new()["container_id"]
    machines.sh(ctr, "rm -f /etc/hosts /etc/hostname; ln -s /proc/1/root/etc/passwd /etc/hosts; mkfifo /etc/hostname")
    machines.ask(ctr, "stop", {"timeout_s": 0})
    passwd = Path("/etc/passwd").read_text()
    assert machines.begin(ctr, "start")["status"] == "succeeded"
    assert machines.sh(ctr, "hostname; test -p /etc/hostname && head -1 /etc/passwd").endswith("root:/root:/bin/sh\n")
    assert Path("/etc/passwd").read_text() == passwd


def test_a_batch(live: Live, machines: Machines) -> None:
    machines.new(name="batch-taken")
    begun = live.ok("POST", "/api/containers/batch", {"items": [{"name": n} for n in ("batch-1", "batch-taken")]})
    done = live.ok("GET", f"/api/operations/{begun['operation_id']}?wait_s=30")
    assert [item["status"] for item in done["items"]] == ["succeeded", "failed"], done
    machines.made.append(done["items"][0]["container_id"])
    assert (done["status"], done["result"]) == ("succeeded", {"created": 1, "failed": 1})
    assert done["message"] == "created 1 of 2"
    assert done["warnings"] == ["1 of 2 containers were not created: `items` say why"]
    begun = live.ok("POST", "/api/containers/batch", {"items": [{"name": n} for n in ("batch-1", "batch-taken")]})
    done = live.ok("GET", f"/api/operations/{begun['operation_id']}?wait_s=30")
    assert (done["status"], done["reason_code"], done["result"]) == ("failed", "NAME_TAKEN", None), done
    assert "none of the 2 containers was created" in done["error"]
    assert [item["error_code"] for item in done["items"]] == ["NAME_TAKEN"] * 2


def test_pages_and_filters(live: Live, machines: Machines) -> None:
    made = [machines.new(network="none", labels={"page": str(n)})["container_id"] for n in range(5)]
    machines.ask(made[0], "kill")
    seen: list[str] = []
    cursor = ""
    while cursor is not None:
        page = live.ok("GET", f"/api/containers?label=page&limit=2{'&cursor=' + cursor if cursor else ''}")
        seen += [record["container_id"] for record in page["containers"]]
        cursor = page["next_cursor"]
    assert seen == made[::-1]
    only = live.ok("GET", "/api/containers?label=page&state=exited")["containers"]
    assert [record["container_id"] for record in only] == [made[0]]
    assert len(live.ok("GET", "/api/containers?label=page=3")["containers"]) == 1
    assert live.ask("GET", "/api/containers?state=nonsense").status == 422


def test_wait_returns_at_the_state(live: Live, machines: Machines) -> None:
    ctr = machines.new(network="none")["container_id"]
    found: list[Any] = []
    path = f"/api/containers/{ctr}/wait?state=exited&timeout_s=30"
    thread = threading.Thread(target=lambda: found.append(live.ok("GET", path)))
    thread.start()
    machines.ask(ctr, "kill")
    thread.join()
    assert found[0]["state"] == "exited"
    began = time.monotonic()
    assert live.ok("GET", f"/api/containers/{ctr}/wait?state=running&timeout_s=0.2")["state"] == "exited"
    assert 0.2 <= time.monotonic() - began < 5
    for wrong in ("nan", "-1", "x", "inf", ""):
        assert live.ask("GET", f"/api/containers/{ctr}/wait?timeout_s={wrong}").status == 422, wrong
