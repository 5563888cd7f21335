"""What is measured: one function for each suite, each beside its floor in the same run. The table is at the end.

Not here: how something is started (`functions`, `floors`) and what becomes of the numbers (`figures`, `report`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import floors, memory
from benchmarks.containers import containers
from benchmarks.figures import Results, percentile, server_timing
from benchmarks.functions import Function, deploy, idle
from benchmarks.private import Private
from benchmarks.together import Crowd
from benchmarks.wire import Answer, Http
from quilt_fn.bundle import Entry, pack

CROWD, CROWD_SLEEP_MS = 50, 20
DENSITY = 200
CONNECTIONS = 16
ONCE = {"cleanup_on_exit": True}
"""Each instance serves one invocation and goes, so that each invocation is a start."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A function that is started: its code, what it imports, and its targets in ms at the median."""

    name: str
    modules: tuple[str, ...]
    requirements: tuple[str, ...]
    fork_ms: float
    restore_ms: float
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        return "".join(f"import {name}\n" for name in self.modules) + "\n\ndef handler(event):\n    return event\n"


SUBJECTS = (
    Subject("noop", (), (), 6.0, 45.0),
    Subject("pandas", ("pandas",), ("pandas>=2.2",), 12.0, 110.0, {"memory_limit_mb": 512}),
)


@dataclass(slots=True)
class Bench:
    """One run on one platform. `runs` of each start, `quick` for a look that is not for the record."""

    private: Private
    http: Http
    results: Results
    quick: bool
    functions: dict[str, Function] = field(default_factory=dict)
    """What the running suite deployed, by name."""

    @property
    def runs(self) -> int:
        return 5 if self.quick else 30

    def deploy(self, name: str, source: str, requirements: Sequence[str] = (), **fields: Any) -> Function:
        bundle = pack({"main.py": Entry(source.encode())})
        spec = {"handler": "main:handler", "requirements": list(requirements), **fields}
        function = self.functions[name] = deploy(self.http, name, bundle, spec)
        return function

    def tidy(self) -> None:
        """No instance and no template of a suite is there when the next one begins."""
        for function in self.functions.values():
            function.to_zero()
            function.drop()
        self.functions.clear()

    def subject(self, subject: Subject) -> Function:
        return self.deploy(f"bench-{subject.name}", subject.source, subject.requirements, **ONCE, **subject.fields)

    def layer(self, function: Function) -> Path | None:
        """Where the function's installed packages lie on this machine."""
        layer = function.record["layer_id"]
        store = self.private.settings.root_dir / "store" / "layers" / str(function.record["tenant_id"])
        return store / str(layer) / "opt/quilt/layer" if layer else None

    @property
    def python(self) -> str:
        """The image's."""
        return str(self.private.spawner_config["python"])

    @contextmanager
    def fork_floor(self, function: Function, modules: Sequence[str]) -> Iterator[floors.Forks]:
        with floors.forks(self.python, self.layer(function), modules) as forks:
            yield forks


def warm(bench: Bench) -> None:
    """One connection, back to back, in turns with the bare app, so that both see the same machine."""
    rounds, each = (4, 100) if bench.quick else (20, 200)
    function = bench.deploy("bench-warm", SUBJECTS[0].source)
    ours: list[float] = []
    theirs: list[float] = []
    with floors.bare() as bare:
        headers = {"Content-Type": "application/json"}
        for turn in range(rounds + 1):
            mine = [function.call(expect="warm" if turn else None).ms for _ in range(each)]
            other = [bare.request("POST", "/fn/bench-warm", b"{}", headers).ms for _ in range(each)]
            if turn:  # the first is for both to get into their stride
                ours += mine
                theirs += other
    row = bench.results.add("warm", "noop, 1 connection", ours)
    floor = bench.results.add("warm", "noop, 1 connection", theirs, role="floor", note="bare aiohttp app on uvloop")
    bench.results.judge("warm", "p50 over a bare aiohttp app", row.p50 - floor.p50, "ms", 0.20)


def throughput(bench: Bench) -> None:
    rounds, seconds = (2, 1.0) if bench.quick else (5, 2.0)
    bench.deploy("bench-throughput", SUBJECTS[0].source, max_instances=CONNECTIONS)
    ours: list[float] = []
    theirs: list[float] = []
    with floors.bare() as bare:
        for turn in range(rounds + 1):
            mine = floors.load(
                bench.private.settings.port, "/fn/bench-throughput", CONNECTIONS, seconds, bench.private.key
            )
            other = floors.load(bare.port, "/fn/bench-throughput", CONNECTIONS, seconds)
            if turn:
                ours.append(mine)
                theirs.append(other)
    name = f"noop, {CONNECTIONS} connections"
    row = bench.results.add("throughput", name, ours, "requests/s")
    floor = bench.results.add("throughput", name, theirs, "requests/s", role="floor", note="bare aiohttp app on uvloop")
    bench.results.judge("throughput", "share of a bare aiohttp app", row.p50 / floor.p50, "", 0.40, at_least=True)


def fork(bench: Bench) -> None:
    """No instance, the template live, kits in stock."""
    for subject in SUBJECTS:
        function = bench.subject(subject)
        with bench.fork_floor(function, subject.modules) as floor:
            function.call()  # the template is live from here on
            ours, inside, theirs = _in_turns(bench, _nothing, partial(function.call, expect="fork"), floor.one)
        row = bench.results.add("fork", subject.name, ours, note=_inside(inside))
        bench.results.add("fork", subject.name, theirs, role="floor", note="os.fork of a plain process, over a socket")
        bench.results.judge("fork", f"{subject.name}, p50", row.p50, "ms", subject.fork_ms)


def restore(bench: Bench) -> None:
    """No instance, no template; the snapshot is in the page cache."""
    for subject in SUBJECTS:
        function = bench.subject(subject)
        function.call()  # a snapshot of an older guest is boot's to replace
        function.drop()
        function.call(expect="restore")
        with floors.restores(bench.private, str(function.record["bundle_id"])) as floor:
            ours, inside, theirs = _in_turns(bench, function.drop, partial(function.call, expect="restore"), floor.one)
        row = bench.results.add("restore", subject.name, ours, note=_inside(inside))
        bench.results.add("restore", subject.name, theirs, role="floor", note="criu restore of the same images alone")
        bench.results.judge("restore", f"{subject.name}, p50", row.p50, "ms", subject.restore_ms)


def boot(bench: Bench) -> None:
    """Neither template nor snapshot: a container, the imports, a new snapshot, then the fork that serves."""
    for subject in SUBJECTS:
        function = bench.subject(subject)
        layer = bench.layer(function)
        ours, inside, theirs = _in_turns(
            bench,
            partial(function.drop, snapshot=True),
            partial(function.call, expect="boot"),
            partial(floors.boot_once, bench.python, layer, subject.modules),
        )
        bench.results.add("boot", subject.name, ours, note=_inside(inside) + "; takes a new snapshot")
        bench.results.add("boot", subject.name, theirs, role="floor", note="a plain Python with the same imports")


def burst(bench: Bench) -> None:
    """50 at once at a function with a snapshot and neither template nor instance."""
    source = f"import time\n\n\ndef handler(event):\n    time.sleep({CROWD_SLEEP_MS / 1e3})\n    return event\n"
    function = bench.deploy("bench-burst", source, max_instances=CROWD)
    crowd = Crowd(bench.private.settings.port, bench.private.key, CROWD)
    ours: list[float] = []
    each: list[float] = []
    theirs: list[float] = []
    try:
        with bench.fork_floor(function, ()) as floor:
            for _ in range(bench.runs):
                function.to_zero()
                function.drop()
                idle()
                took = [answer.ms for answer in crowd.call(function, b"{}")]
                ours.append(max(took))
                each += took
                idle()
                theirs.append(max(floor.crowd(CROWD, CROWD_SLEEP_MS)))
    finally:
        crowd.close()
    name = f"{CROWD} at once, the last answered"
    row = bench.results.add("burst", name, ours)
    bench.results.add("burst", name, theirs, role="floor", note="a plain process forked for each, over sockets")
    bench.results.add("burst", f"{CROWD} at once, each", each)
    bench.results.judge("burst", f"{name}, p50", row.p50, "ms", 600.0)


def density(bench: Bench) -> None:
    """200 idle instances of a numpy function: what they weigh, and how quickly they were there."""
    count = 20 if bench.quick else DENSITY
    settings = bench.private.settings
    function = bench.deploy(
        "bench-numpy", "import numpy\n\n\ndef handler(event):\n    return float(numpy.ones(4).sum())\n", ("numpy>=2",),
        max_instances=count,
    )  # fmt: skip
    function.to_zero()
    function.call()
    function.to_zero()  # a live template, nothing else
    idle()
    before_mb, available_mb = sum(memory.of_groups(settings, "ctr_").values()), memory.available_mb()
    begun = time.perf_counter()
    function.set_target(count, count)
    function.wait_for(lambda pool: pool["ready_count"] >= count, 120.0)
    took_s = time.perf_counter() - begun
    idle()
    instances = list(memory.of_groups(settings, "ins_").values())
    after_mb = sum(memory.of_groups(settings, "ctr_").values()) + sum(instances)
    per_machine_mb = (available_mb - memory.available_mb()) / count
    function.set_target(0, count)
    function.to_zero()
    bench.results.add("density", "proportional set size of an idle numpy instance", instances, "MB")
    bench.results.judge(
        "density", "added by each instance, template included", (after_mb - before_mb) / count, "MB", 4.0
    )
    name = "memory that the machine lost for each"
    bench.results.add("density", name, [per_machine_mb], "MB", note="with the kernel's own share")
    bench.results.add("density", f"starts while {count} were made", [count / took_s], "starts/s")
    with bench.fork_floor(function, ("numpy",)) as floor:
        floor.one()
        rate = [_rate(floor, count) for _ in range(3)]
    note = "plain os.fork of the same imports, each answered over a socket"
    bench.results.add("density", f"starts while {count} were made", rate, "starts/s", role="floor", note=note)


def _rate(floor: floors.Forks, count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        floor.one()
    return count / (time.perf_counter() - begun)


def _in_turns(
    bench: Bench, prepare: Callable[[], object], call: Callable[[], Answer], floor: Callable[[], float]
) -> tuple[list[float], list[dict[str, float]], list[float]]:
    """`runs` of both in turns, each after an idle gap: our ms, what Server-Timing says of them, the floor's ms."""
    ours: list[float] = []
    inside: list[dict[str, float]] = []
    theirs: list[float] = []
    for _ in range(bench.runs):
        prepare()
        idle()
        answer = call()
        ours.append(answer.ms)
        inside.append(server_timing(answer.headers.get("server-timing", "")))
        idle()
        theirs.append(floor())
    return ours, inside, theirs


def _nothing() -> None:
    """What a fork needs beforehand."""


def _inside(timings: Sequence[dict[str, float]]) -> str:
    """The medians of what the platform itself says: queue, start, run."""
    names = list(dict.fromkeys(name for timing in timings for name in timing))
    medians = {name: percentile([t[name] for t in timings if name in t], 0.5) for name in names}
    return "of which " + ", ".join(f"{name} {ms:.2f}" for name, ms in medians.items()) if medians else ""


SUITES: dict[str, Callable[[Bench], None]] = {
    "warm": warm,
    "throughput": throughput,
    "fork": fork,
    "restore": restore,
    "boot": boot,
    "burst": burst,
    "density": density,
    "containers": containers,
}
