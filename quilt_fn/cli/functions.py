"""`quilt functions`: list, get, delete.

Not here: deploying them (`deploy`).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from quilt_fn.cli import output
from quilt_fn.cli.deploy import url_of

if TYPE_CHECKING:
    from quilt_fn.model.function import FunctionRecord


@click.group(short_help="List, show and delete functions.")
def functions() -> None:
    """List, show and delete functions."""


@functions.command("list", short_help="List the functions, newest first.")
@output.page_options
@output.json_option
def list_(limit: int, cursor: str | None, as_json: bool) -> None:
    """List the functions, newest first."""
    output.page(
        "functions", output.client().list_functions(limit=limit, cursor=cursor),
        ["name", "state", ">version", ">memory", ">instances", ">invocations", ">errors", "last invoked"],
        lambda f: (f.name, f.state, f.current_version, f"{f.memory_limit_mb} MB",
                   f"{f.min_instances}–{f.max_instances}", f.invocation_count, f.error_count,
                   output.ago(f.last_invoked_at)),
        empty="there are no functions; `quilt deploy` makes one", as_json=as_json,
    )  # fmt: skip


@functions.command("get", short_help="Show all that is known of a function.")
@click.argument("name")
@output.json_option
def get(name: str, as_json: bool) -> None:
    """Show all that is known of a function."""
    client = output.client()
    record = client.function_by_name(name)
    if as_json:
        output.print_json(record)
        return
    output.table(["", ""], [*_facts(record), ("url", url_of(client, record))], empty="")


def _facts(record: FunctionRecord) -> list[tuple[str, object]]:
    taken = record.snapshot
    facts: list[tuple[str, object]] = [
        ("id", record.id),
        ("state", record.state + (f": {record.error_message}" if record.error_message else "")),
        ("version", f"{record.current_version} current, {record.version} newest"),
        ("handler", record.handler),
        ("limits", f"{record.memory_limit_mb} MB, {record.cpu_limit_percent} % CPU, {record.timeout_seconds:g} s"),
        ("instances", f"{record.min_instances} to {record.max_instances}, {record.buffer_instances} in reserve"),
        ("requirements", ", ".join(record.requirements) or None),
        ("environment", ", ".join(f"{name}={value}" for name, value in record.environment.items()) or None),
        ("secrets", ", ".join(record.secrets) or None),
        ("auth, network", f"{record.auth}, {record.network}"),
        ("build", ", ".join(f"{stage} {ms:,.0f} ms" for stage, ms in record.build.items()) or None),
        ("snapshot", " ".join(filter(None, (taken.state, output.size(taken.size_bytes), taken.reason)))),
    ]  # fmt: skip
    for way in record.start_paths:
        facts.append((f"start by {way.kind}", "yes" if way.available else f"no: {way.reason}"))
    facts += [
        ("invocations", f"{record.invocation_count}, {record.error_count} failed"),
        ("updated", record.updated_at),
    ]
    return facts


@functions.command("delete", short_help="Delete functions.")
@click.argument("names", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Don't ask.")
@output.json_option
def delete(names: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete functions. Running invocations get their time limit, then code, instances and records go."""
    client = output.client()
    records = [client.function_by_name(name) for name in names]
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked here: --yes deletes without asking")
        click.confirm(f"delete {', '.join(names)}?", abort=True, err=True)
    for record in records:
        client.delete_function(record.id)
        if not as_json:
            click.echo(f"deleted {record.name}", err=True)
    if as_json:
        output.print_json({"deleted": [record.id for record in records]})
