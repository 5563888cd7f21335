"""`quilt volumes`: list, create, get, rename, delete; ls, cat, rm of what is in one.

Not here: copying files and folders in and out (`quilt cp`).
"""

from __future__ import annotations

import sys

import click

from quilt_fn.cli import output
from quilt_fn.output_bytes import in_json


@click.group(short_help="List, make and delete volumes, and see what is in them.")
def volumes() -> None:
    """List, make and delete volumes, and see what is in them. `quilt cp` copies files in and out."""


@volumes.command("list", short_help="List the volumes, newest first.")
@output.page_options
@click.option("--label", metavar="KEY[=VALUE]", help="Only those with this label.")
@output.json_option
def list_(limit: int, cursor: str | None, label: str | None, as_json: bool) -> None:
    """List the volumes, newest first."""
    output.page(
        "volumes", output.client().volumes.list(limit, cursor, label),
        ["name", ">limit", "attached to", "made"],
        lambda v: (v.name, f"{v.size_limit_mb} MB" if v.size_limit_mb else None, ", ".join(v.attached_to) or None,
                   output.ago(v.created_at)),
        empty="there are no volumes; `quilt volumes create NAME` makes one", as_json=as_json,
    )  # fmt: skip


@volumes.command("create", short_help="Make a volume.")
@click.argument("name")
@click.option("--size-limit-mb", type=click.IntRange(16), metavar="MB", help="It holds no more than this.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label; repeatable.")
@output.json_option
def create(name: str, size_limit_mb: int | None, labels: tuple[str, ...], as_json: bool) -> None:
    """Make a volume."""
    pairs = dict(each.partition("=")[::2] for each in labels)
    record = output.client().volumes.create(name, size_limit_mb=size_limit_mb, labels=pairs).record
    output.print_json(record) if as_json else click.echo(record.name)


@volumes.command("get", short_help="Show a volume, how full it is and who uses it.")
@click.argument("name")
@output.json_option
def get(name: str, as_json: bool) -> None:
    """Show a volume, how full it is and who uses it."""
    found = output.client().volumes.get(name).inspect()
    if as_json:
        output.print_json(found)
        return
    rows = [
        ("name", found.name), ("id", found.volume_id), ("made", output.ago(found.created_at)),
        ("size", f"{output.size(found.size_bytes)} in {found.file_count} files"
         + ("" if found.complete else ", and more")),
        ("room left", output.size(found.free_bytes)),
        ("limit", f"{found.size_limit_mb} MB" if found.size_limit_mb else "none"),
        ("attached to", ", ".join(found.attached_to) or None),
        ("labels", ", ".join(f"{key}={value}" for key, value in found.labels.items()) or None),
    ]  # fmt: skip
    output.table(["", ""], rows, empty="")


@volumes.command("rename", short_help="Give a volume another name.")
@click.argument("name")
@click.argument("new_name")
@output.json_option
def rename(name: str, new_name: str, as_json: bool) -> None:
    """Give a volume another name."""
    record = output.client().volumes.get(name).rename(new_name).record
    output.print_json(record) if as_json else click.echo(record.name)


@volumes.command("delete", short_help="Delete volumes with all that is in them.")
@click.argument("names", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@output.json_option
def delete(names: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete volumes with all that is in them. One that is attached is refused."""
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked here: --yes deletes without asking")
        click.confirm(f"delete {', '.join(names)} with all files?", abort=True, err=True)
    client = output.client()
    operations = {name: client.volumes.delete(name) for name in names}
    if as_json:
        output.print_json({"deleted": list(operations), "operations": list(operations.values())})
    else:
        for name in operations:
            click.echo(f"deleted {name}", err=True)


@volumes.command("ls", short_help="List what is in a folder of a volume.")
@click.argument("place", metavar="VOLUME[:PATH]")
@output.json_option
def ls(place: str, as_json: bool) -> None:
    """List what is in a folder of a volume, ordered by name."""
    name, _, path = place.partition(":")
    entries = list(output.client().volumes.get(name).files.list(path))
    if as_json:
        output.print_json({"entries": entries})
        return
    output.table(
        ["mode", ">bytes", "changed", "name"],
        [
            (e.mode, e.size if e.kind == "file" else None, output.ago(e.modified_at),
             e.name + {"folder": "/", "link": f" -> {e.target}"}.get(e.kind, ""))
            for e in entries
        ],
        empty="there is nothing in it",
    )  # fmt: skip


@volumes.command("cat", short_help="Write a file of a volume to stdout.")
@click.argument("place", metavar="VOLUME:PATH")
@output.json_option
def cat(place: str, as_json: bool) -> None:
    """Write a file of a volume to stdout, byte by byte as it is.

    With --json it is the text `content` of one object, and where it is not UTF-8 also all of it in `content_b64`.
    """
    name, path = _parted(place)
    if as_json:
        data = output.client().volumes.get(name).files.read(path)
        text, exact = in_json(data)
        output.print_json({"volume": name, "path": path, "size": len(data), "content": text, "content_b64": exact})
        return
    for piece in output.client().volumes.get(name).files.stream(path):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


@volumes.command("rm", short_help="Remove a file or folder of a volume.")
@click.argument("place", metavar="VOLUME:PATH")
@click.option("-r", "--recursive", is_flag=True, help="A folder with all that is in it.")
@output.json_option
def rm(place: str, recursive: bool, as_json: bool) -> None:
    """Remove a file, a link or an empty folder of a volume."""
    name, path = _parted(place)
    output.client().volumes.get(name).files.delete(path, recursive=recursive)
    if as_json:
        output.print_json({"deleted": [place]})
    else:
        click.echo(f"removed {place}", err=True)


def _parted(place: str) -> tuple[str, str]:
    name, colon, path = place.partition(":")
    if not colon or not path.strip("/"):
        raise click.BadParameter(f"{place!r} must be VOLUME:PATH", param_hint="VOLUME:PATH")
    return name, path.lstrip("/")
