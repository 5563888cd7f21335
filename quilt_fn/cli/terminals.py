"""`quilt terminals`: the terminal sessions that go on in containers, whoever is attached to them.

Not here: the terminal itself (`quilt_fn.cli.shell`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from quilt_fn.cli import output

if TYPE_CHECKING:
    from quilt_fn.model.terminal import TerminalRecord


@click.group(short_help="Open, list, show and close terminal sessions.")
def terminals() -> None:
    """Open, list, show and close terminal sessions. `quilt shell NAME --session ID` attaches to one."""


@terminals.command("open", short_help="Open a session for a browser, and print its URL.")
@click.argument("container")
@click.option("--shell", metavar="PATH", help="By default bash where the container has it, else sh.")
@click.option("--workdir", "-w", metavar="PATH", help="The folder to begin in.")
@click.option("--user", "-u", metavar="USER[:GROUP]", help="Of the container's own; by default its root.")
@output.json_option
def open_(container: str, shell: str | None, workdir: str | None, user: str | None, as_json: bool) -> None:
    """Open a session for a browser, and print its URL. Whoever has the URL has the terminal; it is shown only here."""
    found = output.client().containers.get(container)
    terminal = found.terminal(shell=shell, workdir=workdir, user=user)
    if as_json:
        output.print_json(terminal.record)
    else:
        click.echo(terminal.page_url)
        click.echo(f"{terminal.id} is open; `quilt terminals close {terminal.id}` ends it", err=True)


@terminals.command("list", short_help="List terminal sessions, newest first.")
@output.page_options
@output.json_option
def list_(limit: int, cursor: str | None, as_json: bool) -> None:
    """List terminal sessions, newest first. One that has ended is there for another minute."""
    output.page(
        "sessions", output.client().terminals.list(limit, cursor),
        ["id", "container", "state", "size", ">clients", "opened", "last active"],
        lambda t: (t.session_id, t.container_id, _state(t), f"{t.cols}x{t.rows}", t.clients,
                   output.ago(t.created_at), output.ago(t.last_active_at)),
        empty="there are none; `quilt shell NAME` opens one", as_json=as_json,
    )  # fmt: skip


@terminals.command("get", short_help="Show one terminal session.")
@click.argument("session")
@output.json_option
def get(session: str, as_json: bool) -> None:
    """Show one terminal session."""
    record = output.client().terminals.get(session).record
    if as_json:
        output.print_json(record)
        return
    shown = [(name, value) for name, value in record.model_dump(mode="json").items() if value is not None]
    output.table(["", ""], shown, empty="")


@terminals.command("close", short_help="End terminal sessions, with what runs in them.")
@click.argument("sessions", nargs=-1, required=True)
@output.json_option
def close(sessions: tuple[str, ...], as_json: bool) -> None:
    """End terminal sessions, with what runs in them."""
    known = output.client().terminals
    records = [known.get(session).close().record for session in sessions]
    if as_json:
        output.print_json({"sessions": records})
        return
    for record in records:
        click.echo(f"{record.session_id} has ended", err=True)


def _state(record: TerminalRecord) -> str:
    return record.state if record.reason is None else f"{record.state} ({record.reason})"
