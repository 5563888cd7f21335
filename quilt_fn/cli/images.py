"""`quilt images`: list, build and delete what containers stand on.

Not here: containers (`quilt containers`).
"""

from __future__ import annotations

import sys

import click

from quilt_fn.cli import escapes, output


@click.group(short_help="List, build and delete images.")
def images() -> None:
    """List, build and delete images. Containers stand on them."""


@images.command("list", short_help="List the images.")
@output.page_options
@output.json_option
def list_(limit: int, cursor: str | None, as_json: bool) -> None:
    """List the images, and which of them are built."""
    output.page(
        "images", output.client().images.list(limit, cursor),
        ["name", "state", ">size", "built", "fingerprint"],
        lambda i: (i.name, i.state, output.size(i.size_bytes), output.ago(i.built_at),
                   i.fingerprint and i.fingerprint[:12]),
        empty="there are no images", as_json=as_json,
    )  # fmt: skip


@images.command("build", short_help="Build an image, or build it anew.")
@click.argument("name")
@click.option("--detach", is_flag=True, help="Do not wait: print the operation's id.")
@output.json_option
def build(name: str, detach: bool, as_json: bool) -> None:
    """Build an image, or build it anew with the newest packages. Exit code 5 where it does not build."""
    client = output.client()
    operation_id = client.images.build(name)
    if detach:
        output.print_json({"operation_id": operation_id}) if as_json else click.echo(operation_id)
        return
    click.echo(f"building {name}; `quilt operations get {operation_id}` shows how far it is", err=True)
    record = client.operations.wait(operation_id)
    if as_json:
        output.print_json(record)
    elif record.status == "succeeded":
        click.echo(f"built {name}", err=True)
    else:
        click.echo(escapes.line(f"{record.status}: {record.error}"), err=True)
    if not output.all_went_well(record):
        raise click.exceptions.Exit(output.FAILED)


@images.command("delete", short_help="Delete a built image that no container stands on.")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output.json_option
def delete(name: str, yes: bool, as_json: bool) -> None:
    """Delete a built image that no container stands on."""
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked here: --yes deletes without asking")
        click.confirm(f"delete the image {name}?", abort=True, err=True)
    output.client().images.delete(name)
    output.print_json({"deleted": [name]}) if as_json else click.echo(f"deleted {name}", err=True)
