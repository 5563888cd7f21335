"""`quilt invoke`: call a function with JSON. The result goes to stdout, what the handler wrote to stderr.

Not here: pickled calls; those are the SDK's.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quilt_fn import errors
from quilt_fn.cli import escapes, output

if TYPE_CHECKING:
    from quilt_fn.model.invocation import InvocationRecord


@click.command(short_help="Call a function and print its result.")
@click.argument("name")
@click.option("--data", metavar="JSON|@FILE|-", help="The event: JSON, @FILE, or - for stdin. By default null.")
@click.option("--text", is_flag=True, help="Hand --data over as text, whatever is in it.")
@click.option("--timeout", "timeout_s", type=float, help="Seconds, at most the function's own limit.")
@output.json_option
def invoke(name: str, data: str | None, text: bool, timeout_s: float | None, as_json: bool) -> None:
    """Call a function and print its result.

    Exit code 5 where the handler failed, with its traceback on stderr; 124 where its time was over. With --json the
    whole record of the invocation is printed.
    """
    record = output.client().invoke(name, event(data, text=text), timeout_s=timeout_s)
    if as_json:
        output.print_json(record)
    else:
        for written in (record.stdout, record.stderr):
            click.echo(written, nl=bool(written) and not written.endswith("\n"), err=True)
        if record.status == "success":
            print_result(record.result)
        else:
            explain(record)
    sys.exit(exit_code(record))


def event(data: str | None, *, text: bool) -> Any:
    """The event that --data stands for. Raises a usage error where it is not JSON."""
    if data is None:
        return None
    if data == "-":
        data, source = sys.stdin.read(), "stdin"
    elif data.startswith("@"):
        source = data[1:]
        try:
            data = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise click.BadParameter(f"{source} cannot be read: {error}", param_hint="--data") from None
    else:
        source = "it"
    if text:
        return data
    try:
        return json.loads(data)
    except ValueError as error:
        raise click.BadParameter(
            f"{source} is not JSON: {error} (--text hands it over as text)", param_hint="--data"
        ) from None


def print_result(result: Any) -> None:
    """Text as it is, octets as they are, anything else as JSON."""
    if isinstance(result, dict) and result.keys() == {"isBase64Encoded", "body"}:
        octets = base64.b64decode(result["body"])
        if sys.stdout.isatty():
            click.echo(f"({len(octets)} bytes; redirect stdout to keep them)", err=True)
        else:
            sys.stdout.buffer.write(octets)
    elif isinstance(result, str):
        click.echo(result)
    else:
        click.echo(json.dumps(result, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def explain(record: InvocationRecord) -> None:
    """Why it failed, on stderr."""
    if record.error is not None and record.error.traceback:
        click.echo(escapes.lines(record.error.traceback.rstrip()), err=True)
    reason = record.error_message or (record.error.message if record.error else record.status)
    click.secho("error", fg="red", bold=True, err=True, nl=False)
    said = f": {record.function_name}: {record.status}: {reason} ({record.invocation_id})"
    click.echo(escapes.line(said), err=True)


def exit_code(record: InvocationRecord) -> int:
    """0, or what the failure's class says: 124 for a time limit, 5 for the function's own."""
    if record.status == "success":
        return 0
    if record.status == "timeout":
        return errors.EXIT_CODE[errors.InvocationTimeout]
    cls = errors.all_errors().get(record.error_code or "", errors.HandlerError)
    return errors.exit_code(cls(record.error_message or record.status))
