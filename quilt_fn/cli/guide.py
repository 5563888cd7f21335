"""`quilt guide`: what the platform tells of its concerns, as pages for people and as JSON for programs.

Not here: help on the commands (`quilt COMMAND --help`).
"""

from __future__ import annotations

import click

from quilt_fn.cli import output
from quilt_fn.errors import RouteNotFound


@click.command(short_help="Read what the HTTP API can do, by concern.")
@click.argument("concern", required=False)
@click.option("--examples", "about", flag_value="examples", help="Requests that work as they stand, as curl commands.")
@click.option("--health", "about", flag_value="health", help="Whether it can work now; exit code 1 where not.")
@output.json_option
def guide(concern: str | None, about: str | None, as_json: bool) -> None:
    """Read what the HTTP API can do, by concern. With CONCERN, its routes with their fields, its states and rules."""
    guides = output.client().guides
    if concern is None:
        if about is not None:
            raise click.UsageError(f"--{about} of which concern? `quilt guide` lists them")
        found = guides.list()
        if as_json:
            output.print_json({"concerns": [{"name": name, "says": says} for name, says in found.items()]})
        else:
            output.table(["concern", ""], found.items(), empty="")
        return
    try:
        if about == "health":
            health = guides.health(concern)
            output.print_json(health) if as_json else click.echo(_said(health))
            if not health["healthy"]:
                raise click.exceptions.Exit(1)
        elif as_json:
            output.print_json((guides.examples if about else guides.help)(concern))
        else:
            click.echo(guides.page(concern, about or "help"), nl=False)
    except RouteNotFound:
        raise click.UsageError(f"there is no concern {concern}: it is one of {', '.join(guides.list())}") from None


def _said(health: dict[str, object]) -> str:
    return f"{health['concern']} can work now" if health["healthy"] else f"it can't work now: {health['reason']}"
