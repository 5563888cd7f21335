"""docs/reference/cli.md, written from the commands themselves: `python -m quilt_fn.cli.reference`.

Not here: the commands that are programs of other rooms; of those the page names what they do.
"""

from __future__ import annotations

import inspect

import click

from quilt_fn.cli.main import COMMANDS, quilt
from quilt_fn.errors import EXIT_CODE

_MEANINGS = {
    0: "done", 1: "the platform failed, or is not there", 2: "the command or its input is wrong", 3: "not found",
    4: "not authorised", 5: "the function, or its build, failed", 6: "a conflict or a limit", 124: "timed out",
    130: "Ctrl-C",
}  # fmt: skip


def page() -> str:
    """The whole page."""
    lines = [
        "# The `quilt` command",
        "",
        "Written by `python -m quilt_fn.cli.reference`; a test compares it with the commands.",
        "",
        "Results go to stdout, progress and errors to stderr. `--json` prints JSON instead of tables, and errors as",
        "one JSON object. QUILT_URL and QUILT_API_KEY name the platform and the key; without them it is this",
        "machine's, with the key that `quilt up` wrote to `$XDG_CONFIG_HOME/quilt/credentials.json`.",
        "",
        "| exit code | meaning |",
        "|---|---|",
        *(f"| {code} | {_MEANINGS[code]} |" for code in sorted({0, 130, *EXIT_CODE.values()})),
        "",
    ]
    with quilt.make_context("quilt", ["up"]) as ctx:
        for name in COMMANDS:
            command = quilt.get_command(ctx, name)
            assert command is not None
            lines += _section(ctx, name, command, depth=2)
    return "\n".join(lines).rstrip() + "\n"


def _section(parent: click.Context, name: str, command: click.Command, depth: int) -> list[str]:
    with click.Context(command, info_name=name, parent=parent) as ctx:
        lines = [f"{'#' * depth} `{ctx.command_path}`", "", _text(command.help or ""), ""]
        if isinstance(command, click.Group):
            for sub in command.list_commands(ctx):
                inner = command.get_command(ctx, sub)
                assert inner is not None
                lines += _section(ctx, sub, inner, depth + 1)
            return lines
        lines += ["```", " ".join(filter(None, [ctx.command_path, *command.collect_usage_pieces(ctx)])), "```", ""]
        options = [
            record
            for parameter in command.get_params(ctx)
            if isinstance(parameter, click.Option)
            and (record := parameter.get_help_record(ctx)) is not None
            and "--help" not in record[0]
        ]
        if options:
            lines += ["| option | |", "|---|---|"]
            lines += [f"| `{flags.replace('|', chr(92) + '|')}` | {text} |" for flags, text in options]
            lines.append("")
        return lines


def _text(help_text: str) -> str:
    """As it is in Markdown: without the docstring's indentation, which Python takes away itself from 3.13 on, and with
    code where click is told to leave the lines as they are.
    """
    paragraphs = inspect.cleandoc(help_text).split("\n\n")
    return "\n\n".join(
        "```\n" + paragraph.removeprefix("\b\n") + "\n```" if paragraph.startswith("\b\n") else paragraph
        for paragraph in paragraphs
    )


if __name__ == "__main__":
    click.echo(page(), nl=False)
