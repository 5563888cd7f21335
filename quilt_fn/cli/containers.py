"""`quilt containers`: what can be asked of them, by name or id.

Not here: commands in them (`quilt exec`, `quilt shell`), their files (`quilt cp`), volumes and services.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quilt_fn.cli import output
from quilt_fn.cli.logs import print_line

if TYPE_CHECKING:
    from quilt_fn.containers import Container
    from quilt_fn.model.container import ContainerRecord

F = TypeVar("F", bound=Callable[..., Any])


@click.group(short_help="Create, list, stop and delete containers.")
def containers() -> None:
    """Create, list, stop and delete containers."""


def _pairs(_ctx: click.Context, _option: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    for text in given:
        if "=" not in text:
            raise click.BadParameter(f"{text!r} is no NAME=VALUE")
    return dict(text.split("=", 1) for text in given)


@containers.command("create", short_help="Create a container and start it.")
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--image", default="host", show_default=True, help="What it stands on.")
@click.option("--memory-mb", type=int, help="Memory limit; 512 by default.")
@click.option("--cpu-percent", type=int, help="Processor limit; 100 is one core.")
@click.option("--pids", type=int, help="At most so many processes; 512 by default.")
@click.option("--env", "-e", "environment", multiple=True, callback=_pairs, metavar="NAME=VALUE", help="For commands.")
@click.option("--label", "labels", multiple=True, callback=_pairs, metavar="NAME=VALUE", help="May be given again.")
@click.option("--volume", "-v", "volumes", multiple=True, metavar="VOLUME:TARGET[:ro]", help="May be given again.")
@click.option("--workdir", "-w", help="Where its commands begin; made where it is not there.")
@click.option("--network", type=click.Choice(["bridge", "none"]), default="bridge", show_default=True, help="Or alone.")
@click.option("--strict", is_flag=True, help="No capabilities at all, umask 077.")
@click.option("--ttl", type=float, metavar="SECONDS", help="Delete it after so long.")
@click.option("--restart", type=click.Choice(["no", "on-failure", "always"]), default="no", help="Its own command.")
@output.json_option
def create(name: str, command: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Create a container and start it. COMMAND, after `--`, is its own; it stays alive when that has ended."""
    names = {
        "memory_mb": "memory_limit_mb", "cpu_percent": "cpu_limit_percent", "pids": "pids_limit",
        "workdir": "working_directory", "ttl": "ttl_seconds",
    }  # fmt: skip
    spec: dict[str, Any] = {names.get(key, key): value for key, value in given.items() if value is not None}
    spec["volumes"] = list(spec["volumes"])
    if command:
        spec["command"] = list(command)
    made = output.client().containers.create(name, **spec)
    if as_json:
        output.print_json(made.record)
        return
    where = f" at {made.record.ip_address}" if made.record.ip_address else ""
    click.echo(f"{name} runs{where}", err=True)
    click.echo(made.id)


@containers.command("list", short_help="List the containers, newest first.")
@click.option("--state", help="Only those in this state.")
@click.option("--label", metavar="NAME[=VALUE]", help="Only those with this label.")
@output.page_options
@output.json_option
def list_(state: str | None, label: str | None, limit: int, cursor: str | None, as_json: bool) -> None:
    """List the containers, newest first."""
    output.page(
        "containers", output.client().containers.list(limit, cursor, state=state, label=label),
        ["name", "state", "image", "address", ">memory", "command", "exit", "created"],
        lambda c: (c.name, c.state, c.image, c.ip_address, f"{c.memory_limit_mb} MB",
                   " ".join(c.command or ())[:40] or None, c.exit_code, output.ago(c.created_at)),
        empty="there are no containers; `quilt containers create NAME` makes one", as_json=as_json,
    )  # fmt: skip


@containers.command("get", short_help="Show all that is known of a container.")
@click.argument("name")
@output.json_option
def get(name: str, as_json: bool) -> None:
    """Show all that is known of a container."""
    record = output.client().containers.get(name).record
    if as_json:
        output.print_json(record)
    else:
        output.table(["", ""], _facts(record), empty="")


def _facts(c: ContainerRecord) -> list[tuple[str, object]]:
    ended = None if c.exit_code is None else f"{c.exit_code} ({c.exit_reason or 'ended'})"
    checks = [
        f"{name}: {'yes' if found else 'no'}" for name, found in c.checks.model_dump().items() if found is not None
    ]
    return [
        ("id", c.container_id),
        ("state", c.state + (f": {c.error_message}" if c.error_message else "")),
        ("ready", f"commands {'yes' if c.exec_ready else 'no'}, network {'yes' if c.network_ready else 'no'}"),
        ("checks", ", ".join(checks)),
        ("image", c.image),
        ("command", " ".join(c.command or ()) or None),
        ("exit code", ended),
        ("limits", f"{c.memory_limit_mb} MB, {c.cpu_limit_percent} % CPU, {c.pids_limit} processes"),
        ("network", f"{c.network}, {c.ip_address or 'no address'}"),
        ("volumes", ", ".join(c.volumes) or None),
        ("labels", ", ".join(f"{name}={value}" for name, value in c.labels.items()) or None),
        ("restart", f"{c.restart}, {c.restart_count} so far"),
        ("expires", c.expires_at),
        ("created", c.created_at),
        ("started", c.started_at),
        ("ended", c.exited_at),
    ]


def _named(function: F) -> F:
    return click.argument("names", nargs=-1, required=True)(output.json_option(function))


def _each(names: Sequence[str], as_json: bool, word: str, work: Callable[[Container], Any]) -> None:
    """Look all of them up first, so that a misspelt name changes nothing."""
    client = output.client()
    found = [client.containers.get(name) for name in names]
    for container in found:
        work(container)
        if not as_json:
            click.echo(f"{word} {container.name}", err=True)
    if as_json:
        output.print_json({"containers": [container.record for container in found]})


@containers.command("start", short_help="Start containers that were stopped.")
@_named
def start(names: tuple[str, ...], as_json: bool) -> None:
    """Start containers that were stopped. What they wrote is still there."""
    _each(names, as_json, "started", lambda c: c.start())


@containers.command("stop", short_help="Stop containers.")
@click.option("--timeout", type=click.FloatRange(0, 600), default=10.0, show_default=True, help="Until SIGKILL.")
@_named
def stop(names: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Stop containers: SIGTERM to all in them, then SIGKILL."""
    _each(names, as_json, "stopped", lambda c: c.stop(timeout))


@containers.command("kill", short_help="Stop containers at once.")
@_named
def kill(names: tuple[str, ...], as_json: bool) -> None:
    """Stop containers at once, by SIGKILL."""
    _each(names, as_json, "killed", lambda c: c.kill())


@containers.command("pause", short_help="Let nothing in containers run.")
@_named
def pause(names: tuple[str, ...], as_json: bool) -> None:
    """Let nothing in containers run, until they are resumed."""
    _each(names, as_json, "paused", lambda c: c.pause())


@containers.command("resume", short_help="Let paused containers go on.")
@_named
def resume(names: tuple[str, ...], as_json: bool) -> None:
    """Let paused containers go on."""
    _each(names, as_json, "resumed", lambda c: c.resume())


@containers.command("rename", short_help="Give a container another name.")
@click.argument("name")
@click.argument("new_name")
@output.json_option
def rename(name: str, new_name: str, as_json: bool) -> None:
    """Give a container another name. Its host name follows at the next start."""
    _each([name], as_json, "renamed", lambda c: c.rename(new_name))


@containers.command("resize", short_help="Give a container other limits.")
@click.argument("name")
@click.option("--memory-mb", type=int, help="Memory limit.")
@click.option("--cpu-percent", type=int, help="Processor limit; 100 is one core.")
@click.option("--pids", type=int, help="At most so many processes.")
@output.json_option
def resize(name: str, memory_mb: int | None, cpu_percent: int | None, pids: int | None, as_json: bool) -> None:
    """Give a container other limits, in force at once."""
    if memory_mb is None and cpu_percent is None and pids is None:
        raise click.UsageError("give one of --memory-mb, --cpu-percent, --pids")
    _each(
        [name], as_json, "resized",
        lambda c: c.resize(memory_limit_mb=memory_mb, cpu_limit_percent=cpu_percent, pids_limit=pids),
    )  # fmt: skip


@containers.command("delete", short_help="Delete containers and all that is in them.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@_named
def delete(names: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete containers and all that is in them; what runs is killed. Volumes stay."""
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked here: --yes deletes without asking")
        click.confirm(f"delete {', '.join(names)}, with all that is in them?", abort=True, err=True)
    _each(names, as_json, "deleted", lambda c: c.delete())


@containers.command("wait", short_help="Wait until a container has a state.")
@click.argument("name")
@click.option("--state", default="exited", show_default=True, help="Which.")
@click.option("--timeout", type=click.FloatRange(1, 600), default=30.0, show_default=True, help="Seconds.")
@output.json_option
def wait(name: str, state: str, timeout: float, as_json: bool) -> None:
    """Wait until a container has a state. Exits with 124 when the time is over first."""
    found = output.client().containers.get(name).wait(state, timeout).record
    if as_json:
        output.print_json(found)
    else:
        click.echo(found.state)
    if found.state != state:
        raise click.exceptions.Exit(124)


@containers.command("logs", short_help="Print what a container's own command wrote.")
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="Go on with what it writes, until it has ended.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many lines, the newest.")
@output.json_option
def logs(name: str, follow: bool, limit: int | None, as_json: bool) -> None:
    """Print what a container's own command wrote. With --json a JSON object for each line.

    --follow ends when the command has ended and no restart policy brings it back.
    """
    for line in output.client().containers.get(name).logs(follow=follow, limit=limit):
        if as_json:
            click.echo(json.dumps(line, ensure_ascii=False))
        else:
            print_line(line)
        sys.stdout.flush()


@containers.command("metrics", short_help="Show what a container uses.")
@click.argument("name")
@output.json_option
def metrics(name: str, as_json: bool) -> None:
    """Show what a container uses, beside its limits."""
    found = output.client().containers.get(name).metrics()
    if as_json:
        output.print_json(found)
        return
    output.table(
        ["", ">now", ">limit"],
        [
            ("memory", output.size(found["memory_bytes"]), output.size(found["memory_limit_bytes"])),
            ("most memory", output.size(found["memory_peak_bytes"]), None),
            ("processor", f"{found['cpu_seconds']:.1f} s", f"{found['cpu_limit_percent']} %"),
            ("processes", found["pids"], found["pids_limit"]),
            ("killed for memory", found["oom_kills"], None),
        ],
        empty="",
    )


@containers.command("processes", short_help="List a container's processes.")
@click.argument("name")
@output.json_option
def processes(name: str, as_json: bool) -> None:
    """List a container's processes, by its own pids."""
    found = output.client().containers.get(name).processes()
    if as_json:
        output.print_json({"processes": found})
        return
    output.table(
        [">pid", ">parent", ">user", "state", ">memory", "command"],
        [(p["pid"], p["ppid"], p["user"], p["state"], output.size(p["memory_bytes"]), p["command"]) for p in found],
        empty="there are none",
    )


@containers.command("signal", short_help="Send a signal to a container's process.")
@click.argument("name")
@click.argument("pid", type=int)
@click.argument("signal", default="TERM")
@output.json_option
def signal(name: str, pid: int, signal: str, as_json: bool) -> None:
    """Send a signal to a container's process, TERM by default."""
    container = output.client().containers.get(name)
    container.signal(pid, signal)
    if as_json:
        output.print_json({"container_id": container.id, "pid": pid, "signal": signal})


@containers.command("env", short_help="Show or change what a container's commands get.")
@click.argument("name")
@click.argument("changes", nargs=-1, metavar="[NAME=VALUE | NAME-]...")
@output.json_option
def env(name: str, changes: tuple[str, ...], as_json: bool) -> None:
    """Show or change the environment of a container's commands: NAME=VALUE sets, NAME- takes out."""
    container = output.client().containers.get(name)
    values: dict[str, str | None] = {}
    for text in changes:
        key, has_value, value = text.partition("=")
        if not has_value and not key.endswith("-"):
            raise click.UsageError(f"{text!r} is neither NAME=VALUE nor NAME-")
        values[key if has_value else key[:-1]] = value if has_value else None
    found = container.set_environment(values) if values else container.environment()
    if as_json:
        output.print_json({"environment": found})
    else:
        for key, value in found.items():
            click.echo(f"{key}={value}")


@containers.command("batch", short_help="Create many containers from a file.")
@click.argument("file", type=click.File("r"))
@output.json_option
def batch(file: Any, as_json: bool) -> None:
    """Create many containers from a JSON file: a list of objects such as {"name": "a", "image": "host"}.

    Exit code 5 where one of them was not created; those that were stay.
    """
    try:
        specs = json.load(file)
    except ValueError as error:
        raise click.UsageError(f"{file.name} is not JSON: {error}") from None
    if not isinstance(specs, list):
        raise click.UsageError(f"{file.name} must hold a list")
    done = output.client().containers.create_many(specs)
    if as_json:
        output.print_json(done)
    else:
        output.table(
            ["name", "status", "id", "error"],
            [(i.get("name"), i.get("status"), i.get("container_id"), i.get("error")) for i in done.items],
            empty="the file names none",
        )
    if not output.all_went_well(done):
        raise click.exceptions.Exit(output.FAILED)
