"""All checks in the order in which a person reads them, and the two forms of the report.

Not here: the checks themselves (`checks_kernel`, `checks_tools`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from quilt_fn.settings import Settings
from runtime.doctor import checks_kernel, checks_tools
from runtime.doctor.finding import Finding
from runtime.doctor.machine import Machine, RealMachine

CHECKS: Sequence[Callable[[Machine, Settings], Finding]] = (
    checks_kernel.root,
    checks_kernel.kernel,
    checks_kernel.user_namespaces,
    checks_kernel.cgroups,
    checks_kernel.swap,
    checks_kernel.overlay,
    checks_kernel.state_folder,
    checks_kernel.disk,
    checks_kernel.seccomp,
    checks_tools.criu,
    checks_tools.waiting_criu,
    checks_kernel.userfaultfd,
    checks_tools.redis,
    checks_tools.python,
    checks_tools.static_init,
    checks_kernel.run_folder,
    checks_tools.network_tools,
    checks_tools.egress,
    checks_tools.node_user,
)


def examine(settings: Settings, machine: Machine | None = None) -> list[Finding]:
    """Every finding about `machine` (this one by default). Changes nothing."""
    subject = RealMachine(settings) if machine is None else machine
    return [check(subject, settings) for check in CHECKS]


def can_run(findings: Sequence[Finding]) -> bool:
    return all(finding.ok for finding in findings if finding.required)


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    return {"can_run": can_run(findings), "parts": [finding.as_json() for finding in findings]}


def show(findings: Sequence[Finding], console: Console) -> None:
    """A table for people: what is there in one line each, what is not with its consequence and its cure."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[red]missing[/]" if finding.required else "[yellow]less[/]"
        table.add_row(mark, finding.name, _text(finding))
    console.print(table)
    lacking = [finding.name for finding in findings if not finding.ok]
    if not can_run(findings):
        console.print("\n[red]Quilt cannot run here yet:[/] see what is marked as missing.")
    elif lacking:
        console.print(f"\nQuilt runs here, with less: {', '.join(lacking)}.")
    else:
        console.print("\n[green]Quilt runs here, with everything.[/]")


def _text(finding: Finding) -> str:
    detail = finding.detail.replace("[", r"\[")
    if finding.ok:
        return detail
    return f"{detail}\n[dim]lost:[/] {finding.lost}\n[dim]get it:[/] {finding.get}"
