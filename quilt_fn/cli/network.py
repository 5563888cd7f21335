"""`quilt network` and `quilt services`: what containers reach, and what of them is reached from outside.

Not here: making containers (`quilt containers`).
"""

from __future__ import annotations

import sys

import click

from quilt_fn.cli import output


@click.group(short_help="Addresses, names and egress of containers.")
def network() -> None:
    """Addresses, names and egress of containers."""


@network.command("show", short_help="Show a container's address, names and egress.")
@click.argument("container")
@output.json_option
def show(container: str, as_json: bool) -> None:
    """Show a container's address, names and egress."""
    record = output.client().network.get(container)
    if as_json:
        output.print_json(record)
        return
    rows = [("network", record.network), ("address", record.ip_address), ("gateway", record.gateway),
            ("bridge", record.bridge), ("names", ", ".join(record.names) or None),
            ("egress", "on" if record.egress else "off")]  # fmt: skip
    output.table(["", ""], rows, empty="")


@network.command("egress", short_help="Let a container reach the outside, or not.")
@click.argument("container")
@click.argument("state", type=click.Choice(["on", "off"]))
@output.json_option
def egress(container: str, state: str, as_json: bool) -> None:
    """Let a container reach the outside, or not. At once, for open connections too, and for each later start."""
    record = output.client().network.set_egress(container, state == "on")
    if as_json:
        output.print_json(record)
        return
    click.echo(f"egress of {container} is {'on' if record.egress else 'off'}", err=True)


@network.command("diagnose", short_help="Check a running container's network, step by step.")
@click.argument("container")
@output.json_option
def diagnose(container: str, as_json: bool) -> None:
    """Check a running container's network, step by step. Ends with 1 where a check failed."""
    found = output.client().network.diagnose(container)
    if as_json:
        output.print_json(found)
    else:
        words = {True: "ok", False: "FAILED", None: "–"}
        output.table(["check", "", "found"], [(c.name, words[c.ok], c.found) for c in found.checks], empty="")
    if not found.healthy:
        sys.exit(1)


@network.command("addresses", short_help="List the addresses that containers have.")
@output.page_options
@output.json_option
def addresses(limit: int, cursor: str | None, as_json: bool) -> None:
    """List the addresses that containers have, the newest container's first."""
    output.page(
        "allocations", output.client().network.allocations(limit, cursor),
        ["name", "address", "egress", "runs", "container"],
        lambda a: (a.name, a.ip_address, "on" if a.egress else "off", "yes" if a.attached else "no", a.container_id),
        empty="no container has an address", as_json=as_json,
    )  # fmt: skip


@network.command("names", short_help="List the names that containers find each other by.")
@output.page_options
@output.json_option
def names(limit: int, cursor: str | None, as_json: bool) -> None:
    """List the names that containers find each other by, the newest container's first."""
    output.page(
        "entries", output.client().network.names(limit, cursor), ["name", "full name", "address"],
        lambda n: (n.name, n.fqdn, n.ip_address), empty="no names", as_json=as_json,
    )  # fmt: skip


@click.group(short_help="Publish a container's port, and withdraw it.")
def services() -> None:
    """Publish a container's port, and withdraw it."""


@services.command("publish", short_help="Publish a port of a container.")
@click.argument("container")
@click.argument("name")
@click.argument("port", type=click.IntRange(1, 65_535))
@click.option("--public", is_flag=True, help="Ask for no token.")
@click.option("--ttl", type=float, metavar="SECONDS", help="Withdraw it after so long.")
@output.json_option
def publish(container: str, name: str, port: int, public: bool, ttl: float | None, as_json: bool) -> None:
    """Publish a port of a container. The URL is on stdout, with the token, which is shown only here."""
    client = output.client()
    made = client.services.publish(
        container, name, port, auth_mode="public" if public else "token", ttl_secs=ttl
    )  # fmt: skip
    if as_json:
        output.print_json(made)
        return
    click.echo(f"{client.url}{made.path}" + (f"?token={made.token}" if made.token else ""))


@services.command("list", short_help="List the services of a container, newest first.")
@click.argument("container")
@output.page_options
@output.json_option
def list_(container: str, limit: int, cursor: str | None, as_json: bool) -> None:
    """List the services of a container, newest first."""
    output.page(
        "services", output.client().services.list(container, limit, cursor),
        ["name", ">port", "auth", "path", "expires", "created"],
        lambda s: (s.name, s.target_port, s.auth_mode, s.path, s.expires_at, output.ago(s.created_at)),
        empty="it publishes none; `quilt services publish CONTAINER NAME PORT` does", as_json=as_json,
    )  # fmt: skip


@services.command("delete", short_help="Withdraw a service, by name or id.")
@click.argument("container")
@click.argument("service")
@output.json_option
def delete(container: str, service: str, as_json: bool) -> None:
    """Withdraw a service, by name or id."""
    output.client().services.withdraw(container, service)
    if as_json:
        output.print_json({"deleted": service})
        return
    click.echo(f"{service} is withdrawn", err=True)
