"""`make demo`: the examples on a private platform, each started in each way, with real HTTP requests and their times.

Not here: figures with floors and targets (`bench`). Exits non-zero where a step failed, a start was of another kind
than claimed, or something of the platform was left.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import percentile
from benchmarks.functions import Function, deploy, idle
from benchmarks.occupied import Occupier
from benchmarks.private import BUILD, REPOSITORY, PlatformFailed, Private, platform
from benchmarks.together import Crowd
from benchmarks.wire import Answer, CallFailed
from quilt_fn.bundle import Entry, pack, read

CROWD = 50
RUNS = {"boot": 3, "restore": 5, "fork": 5, "warm": 5}

ENTRY = '''"""The example's handler, and a way to keep an instance busy, so that the next request needs another one."""

import time

from handler import handler as example


def handler(event):
    if isinstance(event, dict) and "busy_s" in event:
        time.sleep(event["busy_s"])
        return None
    return example(event)
'''


@dataclass(frozen=True, slots=True)
class Example:
    """A folder of examples/ and what it needs. `shows` says of an answer what it is."""

    name: str
    fields: dict[str, Any]
    shows: Callable[[Answer], str]


@dataclass(frozen=True, slots=True)
class Line:
    function: str
    start: str
    p50_ms: float
    p90_ms: float
    n: int


def _thumbnail(answer: Answer) -> str:
    if not answer.body.startswith(b"\xff\xd8\xff"):
        raise CallFailed("thumbnail: the answer is no JPEG")
    return f"a JPEG of {len(answer.body) / 1e3:.1f} kB"


def _report(answer: Answer) -> str:
    orders = answer.json()["orders"]
    if orders != 100_000:
        raise CallFailed(f"report: 100,000 orders were expected, not {orders}")
    return f"{orders:,} orders"


def _noop(answer: Answer) -> str:
    if answer.json() != {}:
        raise CallFailed(f"noop: {answer.body!r} is not what it was given")
    return "its event"


EXAMPLES = (
    Example("noop", {"max_instances": CROWD}, _noop),
    Example("thumbnail", {"hooks": {"before_snapshot": ["handler:photograph"]}}, _thumbnail),
    Example("report", {"memory_limit_mb": 512}, _report),
)


def main() -> int:
    begun = time.monotonic()
    try:
        with platform("demo") as private:
            say(f"a private platform is up on port {private.settings.port}, {time.monotonic() - begun:.1f} s")
            lines = show_all(private)
        say("the platform has ended; nothing of it is left: processes, mounts, cgroups, links, sockets")
    except (PlatformFailed, CallFailed, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print()
    print(table(lines))
    target = BUILD / "demo.json"
    target.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")
    say(f"\nwritten to {target.relative_to(REPOSITORY)}; {time.monotonic() - begun:.0f} s in all")
    return 0


def show_all(private: Private) -> list[Line]:
    http = private.http()
    lines: list[Line] = []
    functions = {}
    for example in EXAMPLES:
        begun = time.monotonic()
        functions[example.name] = deploy_example(private, example)
        stages = functions[example.name].record["build"]
        told = ", ".join(f"{stage} {ms:.0f} ms" for stage, ms in stages.items())
        say(f"{example.name}: deployed in {time.monotonic() - begun:.1f} s ({told})")
    for example in EXAMPLES:
        lines += show(private, functions[example.name], example)
    lines.append(crowd(private, functions["noop"]))
    http.close()
    return lines


def deploy_example(private: Private, example: Example) -> Function:
    """The example's folder as it stands, with the entry that can be kept busy beside its handler."""
    folder = REPOSITORY / "examples" / example.name
    requirements = [line for line in (folder / "requirements.txt").read_text().splitlines() if line.strip()]
    bundle = pack({**read(Path(folder)), "demo_entry.py": Entry(ENTRY.encode())})
    fields = {"handler": "demo_entry:handler", "requirements": requirements, **example.fields}
    return deploy(private.http(), example.name, bundle, fields)


def show(private: Private, function: Function, example: Example) -> list[Line]:
    found: dict[str, list[float]] = {start: [] for start in RUNS}
    function.to_zero()
    for start in ("boot", "restore"):
        for _ in range(RUNS[start]):
            function.to_zero()
            function.drop(snapshot=start == "boot")
            found[start].append(timed(function, start, example))
    # A round is an idle while and two forks, each shorter than a restore; the function's own limit is 30 s.
    round_s = 1.0 + max(found["restore"]) / 1000
    with Occupier(private.settings.port, private.key, function.name, min(25.0, RUNS["fork"] * round_s)) as occupier:
        for _ in range(RUNS["fork"]):
            occupier.occupy_one_more()
            found["fork"].append(timed(function, "fork", example))
    for _ in range(RUNS["warm"]):
        found["warm"].append(timed(function, "warm", example))
    answer = example.shows(function.call())
    lines = [line(function.name, start, values) for start, values in found.items()]
    say(f"{function.name}: answers {answer}; " + ", ".join(f"{one.start} {one.p50_ms:.1f} ms" for one in lines))
    return lines


def timed(function: Function, start: str, example: Example) -> float:
    idle()
    answer = function.call(expect=start)
    example.shows(answer)
    return answer.ms


def crowd(private: Private, function: Function) -> Line:
    """50 requests at once at a function that has a snapshot, no template and no instance."""
    function.to_zero()
    function.drop()
    everybody = Crowd(private.settings.port, private.key, CROWD)
    try:
        idle()
        answers = everybody.call(function, b'{"busy_s": 0.02}')
    finally:
        everybody.close()
    starts = Counter(answer.headers.get("x-quilt-start", "?") for answer in answers)
    if starts["restore"] != 1 or starts["boot"]:
        raise CallFailed(f"of {CROWD} requests at once one should have been a restore and none a boot: {dict(starts)}")
    told = ", ".join(f"{count} {start}" for start, count in starts.items())
    say(f"{CROWD} requests at once: the last answered after {max(a.ms for a in answers):.0f} ms ({told})")
    return line(function.name, f"{CROWD} at once", [answer.ms for answer in answers])


def line(function: str, start: str, values: list[float]) -> Line:
    p50, p90 = (round(percentile(values, share), 3) for share in (0.5, 0.9))
    return Line(function, start, p50, p90, len(values))


def table(lines: list[Line]) -> str:
    rows = [f"{'function':<10} {'start':<11} {'p50 ms':>9} {'p90 ms':>9} {'n':>4}"]
    rows += [f"{one.function:<10} {one.start:<11} {one.p50_ms:>9.2f} {one.p90_ms:>9.2f} {one.n:>4}" for one in lines]
    return "\n".join(rows)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
