"""Commands that are programs of other rooms: up, down, status, doctor, service, bench. This process becomes those.

Not here: what they do and which options they take; all of a command's arguments are handed on as they are.
"""

from __future__ import annotations

import os
import sys

import click

from quilt_fn.cli.main import COMMANDS


def become(module: str, *arguments: str) -> None:
    """Run `python -m module …` in place of this process, so that signals and exit code are its own.

    -P keeps the current folder off Python's path: a user's folder named `runtime` must not be taken for ours.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])


def _handing_on(name: str, module: str, *first: str) -> click.Command:
    def callback(arguments: tuple[str, ...]) -> None:
        become(module, *first, *arguments)

    return click.Command(
        name,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS]...")],
        callback=callback,
        help=COMMANDS[name].help + " `--help` lists its options.",
        short_help=COMMANDS[name].help,
        add_help_option=False,
        options_metavar="",
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    )


up = _handing_on("up", "runtime.supervisor", "up")
down = _handing_on("down", "runtime.supervisor", "down")
status = _handing_on("status", "runtime.supervisor", "status")
doctor = _handing_on("doctor", "runtime.doctor")
service = _handing_on("service", "runtime.service")
bench = _handing_on("bench", "benchmarks.bench")
