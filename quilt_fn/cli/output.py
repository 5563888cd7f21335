"""How the CLI shows things: tables and JSON on stdout, progress and errors on stderr.

Not here: what is shown. rich is imported only where a table or progress is drawn.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quilt_fn.cli import escapes
from quilt_fn.errors import QuiltError

if TYPE_CHECKING:
    from quilt_fn.client import Client, DeployStep
    from quilt_fn.connection import Page
    from quilt_fn.model.operation import OperationRecord

SAID_FROM_S = 1.0
"""Shorter waits for the key's rate are not worth a line."""
FAILED = 5
"""The exit code of a command whose work failed."""
F = TypeVar("F", bound=Callable[..., Any])


def json_option(function: F) -> F:
    """`--json`, passed as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(function)


def page_options(function: F) -> F:
    """`--limit` and `--cursor` of a list, passed as such, for the client's method of that list."""
    limit = click.option(
        "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="At most so many."
    )
    cursor = click.option("--cursor", help="Go on where a page ended, which said this.")
    return limit(cursor(function))


def client() -> Client:
    """The platform that settings and credentials name."""
    from quilt_fn.client import Client

    return Client(on_wait=_say_wait)


def _say_wait(error: QuiltError, seconds: float) -> None:
    if seconds >= SAID_FROM_S:
        click.echo(f"{error.message}: going on in {seconds:.0f} s", err=True)


def print_json(value: object) -> None:
    """A value, a model or a list of models as JSON on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if dump is not None else str(value)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """A table on stdout, or the sentence `empty` on stderr for no rows. A column named with `>` is right-aligned.

    Columns without names have no head. Cells are made safe for a terminal, each on one line but `escapes.Lines`.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = [[("–" if cell is None else escapes.cell(cell)) for cell in row] for row in rows]
    if not shown:
        click.echo(empty, err=True)
        return
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, show_header=any(columns))
    for column in columns:
        drawn.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    for row in shown:
        drawn.add_row(*(Text(cell) for cell in row))
    # Into a file or a pipe a table is as wide as it needs to be: nothing may be folded that a program will cut apart.
    console = Console() if sys.stdout.isatty() else Console(width=4096)
    with console.capture() as captured:
        console.print(drawn)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def page(
    things: str, found: Page, columns: Sequence[str], row: Callable[[Any], Sequence[object]], empty: str, as_json: bool
) -> None:
    """A page of a list as a table with a `row` for each record, or as JSON as the API gives it."""
    if as_json:
        print_json({things: found.items, "next_cursor": found.next_cursor})
        return
    table(columns, [row(each) for each in found.items], empty)
    if found.next_cursor is not None:
        click.echo(f"there are more: --cursor '{found.next_cursor}' shows them", err=True)


def all_went_well(record: OperationRecord) -> bool:
    """Whether an operation succeeded, and each of its items did."""
    return record.status == "succeeded" and all(item.get("status") == "succeeded" for item in record.items)


def ago(moment: str | float | None) -> str | None:
    """An ISO time, or epoch seconds, as "3 min ago"."""
    if moment is None:
        return None
    then = datetime.fromisoformat(moment).timestamp() if isinstance(moment, str) else moment
    seconds = max(0.0, time.time() - then)
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"


def size(count: int | None) -> str | None:
    """Bytes as "4.4 MB"."""
    return None if count is None else f"{count / 1e6:,.1f} MB"


def show_error(error: QuiltError, *, as_json: bool) -> None:
    """A failure on stderr: what the code printed, its traceback or a build's log where there is one, what it was, and
    what to do.
    """
    details = error.details or {}
    if as_json:
        body = {"error": error.message, "error_code": error.error_code, "details": error.details, "hint": error.hint}
        click.echo(json.dumps(body, ensure_ascii=False, default=str), err=True)
        return
    for key in ("output", "log", "traceback"):
        text = str(details.get(key) or "").strip()
        if text and text not in error.message:
            click.echo(escapes.lines(text), err=True)
    stage = f" ({details['stage']})" if details.get("stage") else ""
    click.secho("error", fg="red", bold=True, err=True, nl=False)
    click.echo(escapes.line(f"{stage}: {error.message}"), err=True)
    for note in getattr(error, "__notes__", ()):
        click.echo(escapes.line(note), err=True)
    if error.hint:
        click.echo(escapes.line(f"hint: {error.hint}"), err=True)


class Steps:
    """A deploy's progress on stderr: a line for each stage with its time, and a spinner for the one at work."""

    def __init__(self, name: str, *, quiet: bool = False) -> None:
        self._name = name
        self._quiet = quiet
        self._status: Any = None

    def __enter__(self) -> Steps:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status(f"deploying {self._name}")
            self._status.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, step: DeployStep) -> None:
        if self._quiet:
            return
        if step.done:
            took = f"{step.ms:>9,.1f} ms" if step.ms is not None else " " * 12
            click.echo(f"  {step.stage:<9}{took}  {escapes.line(step.text)}".rstrip(), err=True)
        elif self._status is not None:
            self._status.update(f"{step.stage}: {escapes.line(step.text)}".replace("[", "\\["))
