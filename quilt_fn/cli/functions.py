"""`quilt functions`: list, get, pause and resume, scale, their invocations, delete.

Not here: deploying them (`deploy`), calling them (`invoke`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from quilt_fn.cli import escapes, output
from quilt_fn.cli.deploy import url_of

if TYPE_CHECKING:
    from quilt_fn.model.function import FunctionRecord
    from quilt_fn.model.invocation import InvocationRecord


@click.group(short_help="List, show, change and delete functions.")
def functions() -> None:
    """List, show, change and delete functions."""


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
        *_state(record),
        ("version", f"{record.current_version} current, {record.version} newest"),
        ("handler", record.handler),
        ("limits", f"{record.memory_limit_mb} MB, {record.cpu_limit_percent} % CPU, {record.pids_limit} processes, "
                   f"{record.timeout_seconds:g} s"),
        ("instances", f"{record.min_instances} to {record.max_instances}, {record.buffer_instances} in reserve, "
                      f"idle ones end after {record.idle_timeout_seconds:g} s"),
        ("queue", f"{record.max_queue} at most"),
        *_where_set(record),
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


def _state(record: FunctionRecord) -> list[tuple[str, object]]:
    """A newer version that failed while an older one serves is no trouble of the function's state."""
    if not record.error_message:
        return [("state", record.state)]
    if record.current_version in (None, record.version):
        return [("state", f"{record.state}: {record.error_message}")]
    failed = f"version {record.version} failed: {record.error_message}; version {record.current_version} serves"
    return [("state", record.state), ("newest version", failed)]


def _where_set(record: FunctionRecord) -> list[tuple[str, object]]:
    """What most functions do without has no row there."""
    recycled = [
        text for value, text in (
            (record.recycle_after_invocations, f"{record.recycle_after_invocations} invocations"),
            (record.recycle_after_seconds, f"{record.recycle_after_seconds or 0:g} s"),
            (record.recycle_memory_growth_mb, f"a growth by {record.recycle_memory_growth_mb} MB"),
            (record.cleanup_on_exit or None, "each invocation"),
        ) if value is not None
    ]  # fmt: skip
    rows: list[tuple[str, str | None]] = [
        ("recycled after", " or ".join(recycled)),
        ("volumes", ", ".join(record.volumes)),
        ("before snapshot", ", ".join(record.hooks.before_snapshot)),
        ("after restore", ", ".join(record.hooks.after_restore)),
        ("warm-up", "" if record.warmup_event is None else json.dumps(record.warmup_event, ensure_ascii=False)),
        ("pickled by", record.python and f"Python {record.python}"),
    ]
    return [(name, text) for name, text in rows if text]


@functions.command("pause", short_help="Serve functions no longer, until they are resumed.")
@click.argument("names", nargs=-1, required=True)
@output.json_option
def pause(names: tuple[str, ...], as_json: bool) -> None:
    """Serve functions no longer: running invocations end, the instances go, code and snapshots stay."""
    _each(names, output.client().pause, "paused", as_json)


@functions.command("resume", short_help="Serve paused functions again.")
@click.argument("names", nargs=-1, required=True)
@output.json_option
def resume(names: tuple[str, ...], as_json: bool) -> None:
    """Serve paused functions again; it returns when they can."""
    _each(names, output.client().resume, "resumed", as_json)


def _each(names: tuple[str, ...], change: Callable[[str], FunctionRecord], done: str, as_json: bool) -> None:
    client = output.client()
    found = [client.function_by_name(name) for name in names]  # a name that there is not stops it before any change
    records = [change(record.id) for record in found]
    if as_json:
        output.print_json({"functions": records})
        return
    for record in records:
        click.echo(f"{done} {record.name}", err=True)


@functions.command("scale", short_help="Keep more or fewer instances, without a new version.")
@click.argument("name")
@click.option("--min", "least", type=click.IntRange(0, 1000), help="So many at least.")
@click.option("--max", "most", type=click.IntRange(1, 1000), help="Never more.")
@output.json_option
def scale(name: str, least: int | None, most: int | None, as_json: bool) -> None:
    """Keep at least --min and never more than --max instances, until a deploy gives others. What is not given stays."""
    if least is None and most is None:
        raise click.UsageError("give --min, --max, or both")
    client = output.client()
    record = client.function_by_name(name)
    least = record.min_instances if least is None else least
    most = record.max_instances if most is None else most
    pool = client.set_pool_target(record, least, most)
    if as_json:
        output.print_json(pool)
    else:
        click.echo(f"{name}: {least} to {most} instances, {pool.total_count} now", err=True)


@functions.command("drop-template", short_help="Make the next start a restore, or a boot.")
@click.argument("name")
@click.option("--snapshot", is_flag=True, help="The snapshot too: the next start is a boot, which makes both anew.")
@output.json_option
def drop_template(name: str, snapshot: bool, as_json: bool) -> None:
    """End the live template that instances are forked from, and give its memory back: the next start is a restore."""
    client = output.client()
    dropped = client.drop_template(client.function_by_name(name).id, snapshot=snapshot)
    if as_json:
        output.print_json({"dropped": dropped})
    else:
        template = "dropped the template" if dropped else "there was no template"
        click.echo(f"{name}: {template}{', dropped the snapshot' if snapshot else ''}", err=True)


@functions.command("invocations", short_help="List a function's invocations, or show one.")
@click.argument("name")
@click.argument("invocation_id", required=False)
@click.option("--status", help="Only those in this status, such as failed.")
@output.page_options
@output.json_option
def invocations(
    name: str, invocation_id: str | None, status: str | None, limit: int, cursor: str | None, as_json: bool
) -> None:
    """List a function's invocations, newest first. With an id, all that is known of that one."""
    client = output.client()
    function_id = client.function_by_name(name).id
    if invocation_id is not None:
        record = client.invocation(function_id, invocation_id)
        output.print_json(record) if as_json else output.table(["", ""], _facts_of_call(record), empty="")
        return
    output.page(
        "invocations", client.invocations(function_id, status=status, limit=limit, cursor=cursor),
        ["invocation", "status", "start", ">took", "begun", "error"],
        lambda i: (i.invocation_id, i.status, i.start, i.duration_ms and f"{i.duration_ms:,.1f} ms",
                   output.ago(i.started_at), i.error_message),
        empty=f"{name} has no such invocations", as_json=as_json,
    )  # fmt: skip


def _facts_of_call(record: InvocationRecord) -> list[tuple[str, object]]:
    times = record.timings
    error = record.error.traceback or record.error_message if record.error else record.error_message
    return [
        ("status", record.status + (f": {record.error_code}" if record.error_code else "")),
        ("version", record.version),
        ("start", record.start),
        ("instance", record.instance_id),
        ("begun", output.ago(record.started_at)),
        ("took", f"{times.queue_ms:,.1f} ms queued, {times.start_ms:,.1f} ms to start, {times.run_ms:,.1f} ms to run"),
        ("result", None if record.result is None else json.dumps(record.result, ensure_ascii=False)),
        ("error", escapes.Lines(error) if error else None),
        ("stdout", escapes.Lines(record.stdout) if record.stdout else None),
        ("stderr", escapes.Lines(record.stderr) if record.stderr else None),
    ]


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
