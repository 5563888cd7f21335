"""`python -m runtime.doctor [--json]`: print the report; exit 0 where the platform can run, 1 where it cannot.

Not here: anything but the command line.
"""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console

from quilt_fn import settings as quilt_settings
from quilt_fn.cli.output import show_error
from quilt_fn.cli.pipes import reader_left
from quilt_fn.errors import QuiltError, exit_code
from runtime.doctor import report


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="quilt doctor", description="What this machine can do for Quilt.")
    parser.add_argument("--json", action="store_true", help="for programs")
    wanted = parser.parse_args(argv)
    try:
        findings = report.examine(quilt_settings.read())
    except QuiltError as error:
        if wanted.json:
            show_error(error, as_json=True)
        else:
            print(f"quilt: {error.message}", file=sys.stderr)
        return exit_code(error)
    try:
        if wanted.json:
            print(json.dumps(report.as_json(findings), indent=2), flush=True)
        else:
            report.show(findings, Console())
    except BrokenPipeError:
        return reader_left()
    return 0 if report.can_run(findings) else 1


if __name__ == "__main__":
    sys.exit(main())
