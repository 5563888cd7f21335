"""A click group that knows its commands by name and one line each, and imports a command only to run it.

Not here: the commands. Importing all of them would cost `quilt --help` a quarter of a second.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True, slots=True)
class Where:
    """`target` is `module:attribute`; `help` must be the command's own first line (a test compares them)."""

    target: str
    help: str


class LazyGroup(click.Group):
    def __init__(self, *args: Any, commands_at: Mapping[str, Where], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands_at = commands_at

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands_at)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        where = self.commands_at.get(cmd_name)
        if where is None:
            return None
        module, attribute = where.target.split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, where.help) for name, where in self.commands_at.items()])
