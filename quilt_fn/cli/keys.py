"""`quilt keys`: list, create, delete.

Not here: which key this command itself uses (`quilt_fn.credentials`, QUILT_API_KEY).
"""

from __future__ import annotations

import click

from quilt_fn.cli import output


@click.group(short_help="List, make and delete API keys.")
def keys() -> None:
    """List, make and delete API keys."""


@keys.command("list", short_help="List the keys by id and name.")
@output.page_options
@output.json_option
def list_(limit: int, cursor: str | None, as_json: bool) -> None:
    """List the keys by id and name, newest first. The keys themselves are not kept."""
    output.page(
        "keys", output.client().keys(limit, cursor), ["id", "name", "made"],
        lambda key: (key["key_id"], key["name"], output.ago(key["created_at"])),
        empty="there are no keys", as_json=as_json,
    )  # fmt: skip


@keys.command("create", short_help="Make a key and print it.")
@click.option("--name", default="", help="For people: where it is used.")
@output.json_option
def create(name: str, as_json: bool) -> None:
    """Make a key and print it. It is seen only now: the platform keeps no more than its hash."""
    made = output.client().create_key(name)
    if as_json:
        output.print_json(made)
    else:
        click.echo(made["key"])
        click.echo(f"{made['key_id']}: keep the key now, it cannot be shown again", err=True)


@keys.command("delete", short_help="Accept a key no longer.")
@click.argument("key_id")
@output.json_option
def delete(key_id: str, as_json: bool) -> None:
    """Accept a key no longer."""
    output.client().delete_key(key_id)
    if as_json:
        output.print_json({"deleted": [key_id]})
    else:
        click.echo(f"deleted {key_id}", err=True)
