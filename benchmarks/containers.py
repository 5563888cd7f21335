"""The suite of containers: how long one takes to be there, a command in it, and 200 that run at once.

Not here: the suites of functions (`suites`).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks import leftovers, memory
from benchmarks.functions import idle
from benchmarks.wire import CallFailed

if TYPE_CHECKING:
    from benchmarks.suites import Bench

MANY = 200
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--ipc", "--uts", "--net", "--fork", "/bin/true")


def containers(bench: Bench) -> None:
    """Create (running and evaluated when it answers, network included), exec and delete, beside bare namespaces."""
    created: list[float] = []
    ran: list[float] = []
    deleted: list[float] = []
    namespaces: list[float] = []
    entered: list[float] = []
    spawned: list[float] = []
    for turn in range(bench.runs + 1):
        ctr, create_ms = _create(bench, f"bench-{turn}")
        idle()
        exec_ms = _run(bench, ctr)
        idle()
        enter_ms = _spawn(("nsenter", "--all", f"--target={_process_of(bench, ctr)}", "/bin/true"))
        idle()
        delete_ms = _timed(bench, "DELETE", f"/api/containers/{ctr}")[1]
        if turn:  # the first makes what is made once for a tenant
            created.append(create_ms)
            ran.append(exec_ms)
            entered.append(enter_ms)
            deleted.append(delete_ms)
        idle()
        namespaces.append(_spawn(UNSHARE))
        spawned.append(_spawn(("/bin/true",)))
        idle()
    row = bench.results.add("containers", "create", created, note="running, init and address answer")
    bench.results.add("containers", "create", namespaces, role="floor", note="unshare with the same namespaces")
    command = bench.results.add("containers", "exec /bin/true", ran)
    bench.results.add("containers", "exec /bin/true", entered, role="floor", note="nsenter into the same container")
    bench.results.add("containers", "exec /bin/true", spawned, role="floor", note="a plain process of the measurer's")
    bench.results.add("containers", "delete", deleted)
    bench.results.judge("containers", "create, p50", row.p50, "ms", 40.0)
    bench.results.judge("containers", "exec /bin/true, p50", command.p50, "ms", 5.0)
    _many(bench)


def _many(bench: Bench) -> None:
    count = 20 if bench.quick else MANY
    before_mb = memory.available_mb()
    begun = time.perf_counter()
    made = [_create(bench, f"bench-many-{n}", memory_limit_mb=32)[0] for n in range(count)]
    took_s = time.perf_counter() - begun
    try:
        ready = bench.http.api("GET", f"/api/containers?state=running&limit={count}")["containers"]
        answered = sum(1 for record in ready if record["exec_ready"] and record["network_ready"])
        execs = [_run(bench, ctr) for ctr in made]
        lost_mb = (before_mb - memory.available_mb()) / count
        own = memory.of_groups(bench.private.settings, "ctr_")
        own_mb = [own[ctr] for ctr in made]
    finally:
        begun = time.perf_counter()
        for ctr in made:
            bench.http.api("DELETE", f"/api/containers/{ctr}")
        deleted_s = time.perf_counter() - begun
    bench.results.add("containers", f"created while {count} were made", [count / took_s], "containers/s")
    bench.results.add("containers", f"exec with {count} running", execs)
    bench.results.add("containers", f"deleted, {count} one after another", [count / deleted_s], "containers/s")
    bench.results.add("containers", "memory of each (PSS)", own_mb, "MB")
    bench.results.add("containers", "memory that the machine lost for each", [lost_mb], "MB")
    bench.results.judge("containers", f"of {count}, those that answer", answered, "", count, at_least=True)


def _process_of(bench: Bench, ctr: str) -> int:
    """A process that lives in the container. Raises CallFailed where none is found."""
    for group in leftovers.groups(bench.private.settings):
        if group.name == ctr and (pids := leftovers.members(group)):
            return min(pids)
    raise CallFailed(f"no process of {ctr} is in any cgroup")


def _create(bench: Bench, name: str, **spec: Any) -> tuple[str, float]:
    record, ms = _timed(bench, "POST", "/api/containers", {"name": name, **spec})
    return str(record["container_id"]), ms


def _run(bench: Bench, ctr: str) -> float:
    done, ms = _timed(bench, "POST", f"/api/containers/{ctr}/exec", {"command": ["/bin/true"]})
    if done["exit_code"]:
        raise CallFailed(f"/bin/true in a container: {done}")
    return ms


def _timed(bench: Bench, method: str, path: str, value: Any = None) -> tuple[Any, float]:
    begun = time.perf_counter()
    found = bench.http.api(method, path, value)
    return found, (time.perf_counter() - begun) * 1e3


def _spawn(argv: Sequence[str]) -> float:
    """Milliseconds of a program from its start to its end."""
    begun = time.perf_counter()
    subprocess.run(argv, check=True)
    return (time.perf_counter() - begun) * 1e3
