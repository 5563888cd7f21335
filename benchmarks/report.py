"""The results as JSON, as a table in Markdown and as a plot, and what they were taken on.

Not here: any measuring.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Results, Row
from benchmarks.private import REPOSITORY


def environment(python: str, criu: list[str] | None) -> dict[str, Any]:
    """The machine and what it runs, without its name."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "processor": model[0].partition(":")[2].strip() if model else "",
        "memory_mb": memory_kb // 1024,
        "python": platform.python_version(),
        "image_python": _says([python, "--version"]),
        "criu": _says([*criu, "--version"]) if criu else None,
        "cgroup": "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1",
        "commit": _says(["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"]),
        "load_average": os.getloadavg()[0],
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _says(argv: list[str]) -> str:
    """The first line that a program prints; empty where it is not there."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip().split("\n")[0]


def write(folder: Path, name: str, results: Results, about: dict[str, Any], *, quick: bool) -> list[Path]:
    """`name`.json, .md and .png. Raises ImportError where matplotlib (the extra `bench`) is not installed."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"quick": quick, "environment": about, **results.as_json()}
    files = [folder / f"{name}.json", folder / f"{name}.md"]
    files[0].write_text(json.dumps(content, indent=1) + "\n")
    files[1].write_text(markdown(results, about, quick=quick))
    target = folder / f"{name}.png"
    plot(results, target)
    return [*files, target]


def markdown(results: Results, about: dict[str, Any], *, quick: bool) -> str:
    """Figures with their targets, then every row."""
    parts = ["# Figures\n"]
    if quick:
        parts.append("**A quick look with few runs, not for the record.**\n")
    parts.append("; ".join(f"{key} {value}" for key, value in about.items() if value not in ("", None)) + "\n")
    if results.figures:
        parts.append("| suite | figure | value | target | |\n|---|---|---:|---:|---|")
        parts += [_figure(figure) for figure in results.figures]
        parts.append("")
    parts.append(
        "| suite | what | unit | p50 | p90 | p99 | n | over its floor | |\n|---|---|---|---:|---:|---:|---:|---:|---|"
    )
    parts += [_row(results, row) for row in results.rows]
    return "\n".join(parts) + "\n"


def _figure(figure: Figure) -> str:
    side = "≥" if figure.at_least else "≤"
    verdict = "met" if figure.met else "**missed**"
    unit = f" {figure.unit}" if figure.unit else ""
    return f"| {figure.suite} | {figure.name} | {figure.value:.3g}{unit} | {side} {figure.target:g}{unit} | {verdict} |"


def _row(results: Results, row: Row) -> str:
    what = f"{row.name} — floor" if row.role == "floor" else row.name
    floor = None if row.role == "floor" else results.floor_of(row)
    ratio = f"× {row.p50 / floor.p50:.2f}" if floor is not None and floor.p50 else ""
    numbers = " | ".join(_number(value) for value in (row.p50, row.p90, row.p99))
    return f"| {row.suite} | {what} | {row.unit} | {numbers} | {row.n} | {ratio} | {row.note} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def plot(results: Results, target: Path) -> None:
    """Medians of all that is in milliseconds, each above its floor, up to the 99th percentile. Raises ImportError."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in results.rows if row.unit == "ms"]
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.34 * len(rows)))
    try:
        for place, row in enumerate(rows):
            colour = "#b8b8b8" if row.role == "floor" else "#2f6db3"
            axes.barh(place, row.p50, color=colour, height=0.7)
            axes.plot([row.p50, row.p99], [place, place], color="#333333", linewidth=1)
            axes.annotate(f" {_number(row.p50)}", (row.p99, place), va="center", fontsize=8)
        axes.set_yticks(
            range(len(rows)), [f"{r.suite}: {r.name}{' (floor)' if r.role == 'floor' else ''}" for r in rows]
        )
        axes.tick_params(axis="y", labelsize=8)
        axes.invert_yaxis()
        if rows:
            axes.set_xscale("log")
            axes.set_xlim(right=axes.get_xlim()[1] * 2)
        axes.set_xlabel("milliseconds: median, and up to the 99th percentile")
        axes.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        figure.savefig(target, dpi=130)
    finally:
        pyplot.close(figure)
