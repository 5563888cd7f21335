"""Writes what pages take from elsewhere: states and metrics from the code, the README's figures from the last bench.

`python docs/generate.py`; with --check it only says what is stale. Not here: the pages that other rooms write from
their own code (settings, CLI, HTTP API, errors), and those that people write.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from pool.disk import DiskFloor  # noqa: E402
from pool.metrics import Metrics  # noqa: E402
from pool.stats import NodeStats  # noqa: E402
from quilt_fn import states  # noqa: E402

REFERENCE = ROOT / "docs" / "reference"
ARCHITECTURE = ROOT / "ARCHITECTURE.md"
README = ROOT / "README.md"
FIGURES = ROOT / "benchmarks" / "results" / "latest.md"

STATES = """\
# States

*Written by `python docs/generate.py` from `quilt_fn/states.py`: change the code, not this page.*

Each machine has one table. The Python check and the states that a compare-and-set in Redis allows come from the same
table; a move that it does not have raises `IllegalTransition` (a bug of ours, never an answer to a request).

Each table is asked where the code moves a state. An invocation is recorded once, when it has ended: what its table lets
it end as is checked there, from `queued` where it never came to an instance, else from `running`.

"""
DERIVED = """\
## function

Never stored: derived from its versions and from what was asked (`pool/functions.py`). One of {states}.

## start

How the instance that served an invocation came to be for it: {starts}. Every one but `warm` is a cold start.
"""

METRICS = """\
# Metrics

*Written by `python docs/generate.py` from `pool/metrics.py`: change the code, not this page.*

`GET /metrics` answers in Prometheus's text format. It needs an API key; with `QUILT_PUBLIC_METRICS` it needs none from
loopback. Times are seconds. `function` is a function's name, with `tenant/` in front where the tenant is not the
default one. All figures are of this node process and start at zero with it.

| metric | type | labels | meaning |
|---|---|---|---|
"""
METRICS_FOOT = """
A histogram has `_bucket`, `_sum` and `_count` series. The warm share of the invocations of the last five minutes:

    sum(rate(quilt_starts_total{kind="warm"}[5m])) / sum(rate(quilt_invocations_total[5m]))

The 95th percentile of the time that a fork takes:

    histogram_quantile(0.95, sum by (le) (rate(quilt_start_seconds_bucket{kind="fork"}[5m])))
"""


def machines() -> dict[str, Mapping[StrEnum, frozenset[StrEnum]]]:
    """Every table of quilt_fn.states by its name."""
    return {name.lower(): table for name, table in vars(states).items() if name.isupper() and isinstance(table, dict)}


def table(machine: Mapping[StrEnum, frozenset[StrEnum]]) -> Iterator[str]:
    """The rows of one machine, in the order in which its states are declared."""
    yield "| from | to |"
    yield "|---|---|"
    for old, news in machine.items():
        ordered = [state for state in type(old) if state in news]
        yield f"| `{old}` | {', '.join(f'`{new}`' for new in ordered) or 'the end'} |"


def states_page() -> str:
    parts = [f"## {name}\n\n" + "\n".join(table(machine)) + "\n\n" for name, machine in machines().items()]
    derived = DERIVED.format(
        states=", ".join(f"`{state}`" for state in states.FunctionState),
        starts=", ".join(f"`{kind}`" for kind in states.StartKind),
    )
    return STATES + "".join(parts) + derived


def architecture_states() -> str:
    """The same tables, one line for each machine."""
    lines = ["| machine | arrows |", "|---|---|"]
    for name, machine in machines().items():
        arrows = (
            f"{old} → {' or '.join(state for state in type(old) if state in news)}"
            for old, news in machine.items()
            if news
        )
        lines.append(f"| {name} | {'; '.join(arrows)} |")
    return "\n".join(lines) + "\n"


def metrics() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """(name as it is exposed, type, labels, help) of each metric, collected from a node that has done nothing."""
    nothing = SimpleNamespace(all=list, of=lambda _: [], up=True)
    collector = Metrics(NodeStats(), nothing, nothing, nothing, lambda: 1, DiskFloor(ROOT, 0))  # type: ignore[arg-type]
    for family in collector.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = tuple(getattr(family, "_labelnames", ()))
        yield name, family.type, labels, family.documentation


def metrics_page() -> str:
    rows = (
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {text} |\n"
        for name, kind, labels, text in metrics()
    )
    return METRICS + "".join(rows) + METRICS_FOOT


def architecture_page() -> str:
    return between(ARCHITECTURE, "states", architecture_states())


def readme_page() -> str:
    return between(README, "bench", figures())


def figures() -> str:
    """What the last bench was taken on and its first table; the rest is a link."""
    if not FIGURES.exists():
        return "*Not measured yet: run `make bench`.*\n"
    paragraphs = FIGURES.read_text().split("\n\n")
    first = next(number for number, text in enumerate(paragraphs) if text.lstrip().startswith("|"))
    link = f"[All rows, with their floors]({FIGURES.relative_to(ROOT)})"
    return "\n\n".join([paragraphs[first].strip(), f"{paragraphs[first - 1].strip()}. {link}"]) + "\n"


def between(page: Path, mark: str, text: str) -> str:
    """`page` with `text` between its marks <!-- mark --> and <!-- /mark -->."""
    head, rest = page.read_text().split(f"<!-- {mark} -->\n", 1)
    foot = rest.split(f"<!-- /{mark} -->", 1)[1]
    return f"{head}<!-- {mark} -->\n{text}<!-- /{mark} -->{foot}"


PAGES = {
    REFERENCE / "states.md": states_page,
    REFERENCE / "metrics.md": metrics_page,
    ARCHITECTURE: architecture_page,
    README: readme_page,
}


def main() -> int:
    stale = [path for path, make in PAGES.items() if not path.exists() or path.read_text() != make()]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"stale: {path.relative_to(ROOT)}; run `python docs/generate.py`", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PAGES[path]())
    return 0


if __name__ == "__main__":
    sys.exit(main())
