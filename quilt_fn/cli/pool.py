"""`quilt pool`: how many instances of each function there are, or each instance of one.

Not here: changing that (`functions scale`, and a function's options).
"""

from __future__ import annotations

import time

import click

from quilt_fn.cli import output


@click.command(short_help="Show how many instances each function has.")
@click.argument("name", required=False)
@output.json_option
def pool(name: str | None, as_json: bool) -> None:
    """Show how many instances each function has. With NAME, each instance of that function."""
    client = output.client()
    if name is not None:
        record = client.pool(client.function_by_name(name).id)
        if as_json:
            output.print_json(record)
            return
        now = time.time()
        output.table(
            ["instance", ">version", "state", "started by", ">age", ">invocations"],
            [(i.instance_id, i.version, i.state, i.start, f"{max(0.0, now - i.started_at):,.0f} s", i.invocations)
             for i in record.instances],
            empty=f"{name} has no instance; {record.queued_count} invocations wait",
        )  # fmt: skip
        return
    pools = client.pool_stats()
    if as_json:
        output.print_json({"pools": pools})
        return
    names = {record.id: record.name for record in client.list_functions(limit=1000).items}
    output.table(
        ["function", ">warming", ">ready", ">busy", ">recycling", ">terminating", ">total", ">queued"],
        [(names.get(p.function_id, p.function_id), p.warming_count, p.ready_count, p.busy_count, p.recycling_count,
          p.terminating_count, p.total_count, p.queued_count) for p in pools],
        empty="there are no functions",
    )  # fmt: skip
