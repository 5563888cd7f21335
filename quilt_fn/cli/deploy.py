"""`quilt deploy`: a file with an App, or a plain handler in a file or folder. URLs go to stdout, progress to stderr.

Not here: packing and the steps of a deploy (`quilt_fn.deploying`), loading a user's file (`user_app`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quilt_fn.cli import output
from quilt_fn.errors import InvalidValue

if TYPE_CHECKING:
    from quilt_fn.client import Client
    from quilt_fn.deploying import Plan
    from quilt_fn.model.function import FunctionRecord

COMMON_HANDLERS = ("handler", "lambda_handler", "main")


def _pairs(_ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for value in values:
        name, sign, text = value.partition("=")
        if not sign or not name:
            # The value itself stays out of the message: it may be the secret.
            raise click.BadParameter("must be NAME=VALUE", param=parameter)
        pairs[name] = text
    return pairs


@click.command(short_help="Deploy a file, a folder, or an App's functions.")
@click.argument("target", metavar="PATH[::NAME]")
@click.option("--name", help="The function's name; by default the file's or folder's.")
@click.option("--handler", help="module:function; by default the function `handler` of the file.")
@click.option(
    "--requirements", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A requirements file."
)
@click.option("--memory-mb", type=int, help="Memory limit.")
@click.option("--cpu-percent", type=int, help="CPU limit; 100 is one core.")
@click.option("--timeout", "timeout_s", type=float, help="Time limit of an invocation in seconds.")
@click.option("--min", "min_instances", type=int, help="Instances kept at least.")
@click.option("--max", "max_instances", type=int, help="Instances at most.")
@click.option("--buffer", "buffer_instances", type=int, help="Idle instances kept beyond the current need.")
@click.option(
    "--env", "environment", multiple=True, callback=_pairs, metavar="NAME=VALUE", help="Environment; repeatable."
)
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    callback=_pairs,
    metavar="NAME=VALUE",
    help="As --env, in no snapshot: it comes at the fork.",
)
@click.option("--network", type=click.Choice(["egress", "none"]), help="What it may reach.")
@click.option("--volume", "volumes", multiple=True, metavar="VOLUME:TARGET[:ro]", help="Attach a volume; repeatable.")
@click.option("--before-snapshot", multiple=True, metavar="MODULE:FUNCTION", help="A hook; repeatable.")
@click.option("--after-restore", multiple=True, metavar="MODULE:FUNCTION", help="A hook; repeatable.")
@click.option("--warmup", metavar="JSON", help="An event to call it with once before the snapshot.")
@click.option("--public", is_flag=True, default=None, help="Its URL needs no key.")
@output.json_option
def deploy(target: str, as_json: bool, **given: Any) -> None:
    """Deploy a file, a folder, or an App's functions.

    PATH is a file with an App (each @app.function in it; PATH::NAME for one), or a file or folder with a plain
    `def handler(event)` or `handler(event, context)`. A name that exists already gets a new version.

    The new version has the options that are given now: what an earlier deploy had set (--public, --memory-mb, --secret)
    and this one does not repeat goes back to its default. Which changed is said on stderr, with --json in `changed`.
    """
    from quilt_fn.cli import user_app

    text, _, one = target.partition("::")
    path = Path(text)
    if not path.exists():
        raise click.BadParameter(f"{text} does not exist", param_hint="PATH")
    given = {name: value for name, value in given.items() if value not in (None, (), {})}
    if path.is_file() and "handler" not in given and user_app.looks_like_app(path):
        if given:
            options = ", ".join("--" + name.removesuffix("_instances").replace("_", "-") for name in given)
            raise click.UsageError(f"{path.name} has an App: its options stand in the file, not in {options}")
        functions = user_app.functions_of(path, one or None)
        client = functions[0].app.client
        plans: Iterator[Plan] = (function.plan() for function in functions)
    elif one:
        raise click.UsageError(f"::{one} names a function of an App, and {path.name} has none")
    else:
        client = output.client()
        plans = iter([plan_of(path, given)])
    records = [carry_out(client, plan, quiet=as_json) for plan in plans]
    if as_json:
        output.print_json({"functions": records})
    else:
        for record in records:
            click.echo(url_of(client, record))


def carry_out(client: Client, plan: Plan, *, quiet: bool) -> FunctionRecord:
    """Deploy one plan with its progress shown; the record, with what `changed` of its options where something did."""
    from quilt_fn.deploying import CHANGES
    from quilt_fn.model.function import FunctionRecord
    from quilt_fn.twins import Items

    with output.Steps(plan.name, quiet=quiet) as steps:
        if not quiet:
            click.echo(f"{plan.name}:", err=True)
        changed: list[str] = []
        for step in Items(_deploy)(client, plan):
            if isinstance(step, FunctionRecord):
                return step.model_copy(update={"changed": changed}) if changed else step
            if step.stage == CHANGES:
                changed.append(step.text)
            steps(step)
    raise AssertionError("a deploy ends with a record or raises")


async def _deploy(client: Client, plan: Plan) -> Any:
    from quilt_fn import deploying

    async for step in deploying.deploy(client, plan):
        yield step


def url_of(client: Client, record: FunctionRecord) -> str:
    """The record's URL, made whole where the platform gives only its path."""
    return record.url if "://" in record.url else f"{client.url}/{record.url.lstrip('/')}"


def plan_of(path: Path, given: dict[str, Any]) -> Plan:
    """A plain handler's files and fields from the command's options."""
    import json

    from quilt_fn import bundle, options, settings, sources
    from quilt_fn.deploying import Plan
    from quilt_fn.function import default_name

    fields: dict[str, Any] = options.api_fields(
        {name: value for name, value in given.items() if name in options.API_FIELDS},  # type: ignore[arg-type]
        Path.cwd(),
    )
    fields["name"] = given.get("name") or default_name(None, path.resolve().stem)
    for name in ("secrets", "requirements", "public"):
        if name in given:
            fields.update(options.api_fields({name: given[name]}, Path.cwd()))  # type: ignore[misc]
    hooks = {moment: list(given[moment]) for moment in ("before_snapshot", "after_restore") if moment in given}
    if hooks:
        fields["hooks"] = hooks
    if "warmup" in given:
        try:
            fields["warmup_event"] = json.loads(given["warmup"])
        except ValueError as error:
            raise click.BadParameter(f"is not JSON: {error}", param_hint="--warmup") from None
    limit_bytes = settings.read().max_body_mb << 20
    if path.is_dir():
        fields["handler"] = given.get("handler") or _default_handler(_main_file(path))
        beside = path / "requirements.txt"
        entries = bundle.read(path, limit_bytes)
    else:
        home = sources.home_of_file(path)
        fields["handler"] = given.get("handler") or _default_handler(path, home.module)
        beside = None
        entries = sources.of_module(home)
    if beside is not None and beside.is_file() and "requirements" not in given:
        fields["requirements"] = options.read_requirements(beside)
    return Plan(bundle.pack(entries, limit_bytes), fields)


def _main_file(folder: Path) -> Path:
    candidates = [
        folder / f"{stem}.py" for stem in ("handler", "main", "app", "lambda_function", folder.resolve().name)
    ]
    files = [file for file in candidates if file.is_file()] or sorted(folder.glob("*.py"))
    if not files or (files[0] not in candidates and len(files) > 1):
        raise InvalidValue(f"which function of {folder} is the handler? name it with --handler module:function")
    return files[0]


def _default_handler(file: Path, module: str | None = None) -> str:
    names = {
        node.name
        for node in ast.parse(file.read_bytes(), filename=str(file)).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    for name in COMMON_HANDLERS:
        if name in names:
            return f"{module or file.stem}:{name}"
    raise InvalidValue(
        f"{file.name} has no function named {' or '.join(COMMON_HANDLERS)}: name it with --handler module:function"
    )
