"""`quilt operations` and `quilt events`: receipts of asynchronous work, and what happens on the platform.

Not here: the commands that begin work.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from quilt_fn.cli import escapes, output

if TYPE_CHECKING:
    from quilt_fn.model.operation import OperationRecord


@click.group(short_help="List, show, wait for and cancel operations.")
def operations() -> None:
    """List, show, wait for and cancel operations. Each is the receipt of asynchronous work."""


@operations.command("list", short_help="List operations, newest first.")
@click.option("--status", help="Only those in this status, e.g. running or failed.")
@output.page_options
@output.json_option
def list_(status: str | None, limit: int, cursor: str | None, as_json: bool) -> None:
    """List operations, newest first."""
    output.page(
        "operations", output.client().operations.list(status=status, limit=limit, cursor=cursor),
        ["id", "type", "target", "status", ">progress", "began", "reason"],
        lambda each: (each.operation_id, each.operation_type, each.target_resource_id, each.status,
                      f"{each.progress_pct:g} %", output.ago(each.started_at), each.reason_code or ""),
        empty="there are none", as_json=as_json,
    )  # fmt: skip


@operations.command("get", short_help="Show one operation, or wait for its end.")
@click.argument("operation_id")
@click.option("--wait", is_flag=True, help="Until it has ended; exit code 5 where it, or an item of it, failed.")
@click.option("--timeout", "timeout_s", type=float, help="With --wait: seconds at most.")
@output.json_option
def get(operation_id: str, wait: bool, timeout_s: float | None, as_json: bool) -> None:
    """Show one operation, or wait for its end."""
    client = output.client()
    record = client.operations.wait(operation_id, timeout_s) if wait else client.operations.get(operation_id)
    _show(record, as_json)
    if wait and not output.all_went_well(record):
        raise click.exceptions.Exit(output.FAILED)


@operations.command("cancel", short_help="Cancel an operation.")
@click.argument("operation_id")
@click.option("--wait", is_flag=True, help="Until what it had half made is undone, however long that takes.")
@output.json_option
def cancel(operation_id: str, wait: bool, as_json: bool) -> None:
    """Cancel an operation. What it had half made is undone first."""
    client = output.client()
    record = client.operations.cancel(operation_id)
    _show(client.operations.wait(operation_id) if wait else record, as_json)


def _show(record: OperationRecord, as_json: bool) -> None:
    if as_json:
        output.print_json(record)
        return
    shown = [(name, value) for name, value in record.model_dump(mode="json").items() if value not in (None, "", [])]
    rows = [(name, value if isinstance(value, (str, int, float)) else json.dumps(value)) for name, value in shown]
    output.table(["", ""], rows, empty="")


@click.command(short_help="Print what happens, as it happens.")
@click.option("--operation", "operation_id", help="Only events of this operation.")
@click.option("--container", "container_id", help="Only events of this container, by id.")
@click.option("--function", "function_id", help="Only events of this function, by id.")
@click.option("--after", type=click.IntRange(min=0), help="Resume after the event of this number.")
@click.option("--limit", type=click.IntRange(min=1), help="End after so many events.")
@output.json_option
def events(
    operation_id: str | None,
    container_id: str | None,
    function_id: str | None,
    after: int | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Print what happens, as it happens. One event a line, until Ctrl-C; --json prints one object a line.

    A broken connection is taken up again where it broke. `gap` says that events in between are not kept any more.
    """
    found = output.client().events(
        operation_id=operation_id, container_id=container_id, function_id=function_id, after=after
    )
    seen = 0
    for event in found:
        if as_json:
            click.echo(json.dumps({"id": event.id, "event": event.kind, "data": event.data}, ensure_ascii=False))
        elif event.kind != "ready":
            fields = [f"{name}={value}" for name, value in event.data.items() if name != "at" and _short(value)]
            click.echo(escapes.line(f"{event.data.get('at', '')} {event.kind} {' '.join(fields)}".rstrip()))
        seen += event.kind != "ready"
        if limit is not None and seen >= limit:
            return


def _short(value: object) -> bool:
    return isinstance(value, (int, float, str)) and value != ""
