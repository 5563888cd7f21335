"""What was measured, as rows with percentiles and figures with their targets. Pure: values in, values out.

Not here: measuring (`suites`) and writing files (`report`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Role = Literal["quilt", "floor"]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of `values` do not exceed: always one that was measured."""
    if not values:
        raise ValueError("there is no percentile of nothing")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Row:
    """One series of measurements. `name` is the same for a figure and its floor."""

    suite: str
    name: str
    role: Role
    unit: str
    p50: float
    p90: float
    p99: float
    n: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that has a target. `at_least` says on which side of it the number should be."""

    suite: str
    name: str
    value: float
    unit: str
    target: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(slots=True)
class Results:
    rows: list[Row] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def add(self, suite: str, name: str, values: Sequence[float], unit: str = "ms", *, role: Role = "quilt",
            note: str = "") -> Row:  # fmt: skip
        p50, p90, p99 = (round(percentile(values, share), 4) for share in (0.5, 0.9, 0.99))
        row = Row(suite, name, role, unit, p50, p90, p99, len(values), note)
        self.rows.append(row)
        return row

    def judge(self, suite: str, name: str, value: float, unit: str, target: float, *, at_least: bool = False) -> Figure:
        figure = Figure(suite, name, round(value, 4), unit, target, at_least)
        self.figures.append(figure)
        return figure

    def floor_of(self, row: Row) -> Row | None:
        same = (r for r in self.rows if r.role == "floor" and (r.suite, r.name) == (row.suite, row.name))
        return next(same, None)

    def as_json(self) -> dict[str, Any]:
        return {"rows": [asdict(r) for r in self.rows], "figures": [{**asdict(f), "met": f.met} for f in self.figures]}


def server_timing(text: str) -> dict[str, float]:
    """`queue;dur=0.1, start;dur=2.5` → {"queue": 0.1, "start": 2.5}, in ms; what has no duration is left out."""
    found = {}
    for entry in text.split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip().lower() == "dur":
                found[name] = float(value)
    return found
