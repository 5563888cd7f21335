"""`quilt logs`: what a function wrote to stdout and stderr, oldest first.

Not here: the platform's own log.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime
from typing import Any

import click

from quilt_fn.cli import output


@click.command(short_help="Print what a function wrote.")
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="Go on with what it writes, until Ctrl-C.")
@click.option("--invocation", "invocation_id", metavar="ID", help="Only of this invocation.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many lines, the newest.")
@output.json_option
def logs(name: str, follow: bool, invocation_id: str | None, limit: int | None, as_json: bool) -> None:
    """Print what a function wrote. With --json a JSON object for each line."""
    client = output.client()
    record = client.function_by_name(name)
    printed = False
    for line in client.logs(record.id, follow=follow, invocation_id=invocation_id, limit=limit):
        if as_json:
            click.echo(json.dumps(line, ensure_ascii=False))
        else:
            print_line(line)
        sys.stdout.flush()
        printed = True
    if invocation_id is not None and not printed and not follow:
        client.invocation(record.id, invocation_id)  # it wrote nothing, or there is no such: that is raised


def print_line(line: dict[str, Any]) -> None:
    """One line of a log, for people: time, stream, text."""
    colour = "red" if line.get("stream") == "stderr" else "cyan"
    click.secho(f"{_clock(line.get('t'))} {line.get('stream') or '':<6} ", fg=colour, nl=False)
    click.echo(str(line.get("text", "")).rstrip("\n"))


def _clock(t: Any) -> str:
    """HH:MM:SS.mmm, local, of epoch seconds or an ISO time."""
    at = datetime.fromisoformat(t).timestamp() if isinstance(t, str) else float(t or 0)
    return time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at % 1 * 1000):03d}"
