"""`python -m runtime.supervisor {up [--detach], down, status} [--json]`: the command line of the supervisor.

Not here: any of the work (`run`, `control`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

from quilt_fn import settings as quilt_settings
from quilt_fn.cli.pipes import reader_left
from quilt_fn.errors import NotRunning, QuiltError, exit_code
from quilt_fn.settings import Settings
from runtime.supervisor import control
from runtime.supervisor.commands import Plan, real_plan
from runtime.supervisor.log import FileLog, TerminalLog
from runtime.supervisor.run import Up, up


def main(argv: list[str] | None = None, plan: Plan = real_plan, program: tuple[str, ...] = control.PROGRAM) -> int:
    """The exit code: 0, that of the error, or 1 where `status` or `down` find nothing running."""
    wanted = _arguments(argv)
    try:
        settings = quilt_settings.read()
        if wanted.command == "up" and wanted.report_fd is not None:
            return _in_background(settings, wanted.report_fd, plan)
        if wanted.command == "up":
            _up(settings, wanted, plan, program)
        elif wanted.command == "down":
            ended = control.down(settings)
            _print(wanted.json, ended, f"Quilt at {ended['url']} has ended.")
        else:
            body = control.status(settings)
            _print(wanted.json, body, _status_text(body))
    except QuiltError as error:
        return _fail(error, wanted.json)
    except BrokenPipeError:
        return reader_left()
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="quilt", description="Start, ask and end the platform of this state folder.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("up", "start"), ("down", "end"), ("status", "ask")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--json", action="store_true", help="for programs")
        if name == "up":
            command.add_argument("--detach", action="store_true", help="in the background, with its log in a file")
            command.add_argument("--report-fd", type=int, help=argparse.SUPPRESS)
    wanted, unknown = parser.parse_known_args(argv)
    if unknown:  # told with the usage of the command that was typed
        commands.choices[wanted.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    return wanted


def _up(settings: Settings, wanted: argparse.Namespace, plan: Plan, program: tuple[str, ...]) -> None:
    if wanted.detach:
        body = control.detach(settings, program)
        if body["warning"]:
            print(f"quilt: {body['warning']}", file=sys.stderr)
        _print(wanted.json, body, _up_text(body))
    else:
        up(settings, TerminalLog(), lambda ready: _print(wanted.json, ready.as_json(), _up_text(ready.as_json())), plan)


def _in_background(settings: Settings, report_fd: int, plan: Plan) -> int:
    """The other half of `control.detach`: log into the file, and tell who started us how it went, in one line."""
    os.set_inheritable(report_fd, False)
    told = os.fdopen(report_fd, "w")

    def tell(body: dict[str, Any]) -> None:
        # Who started us may have been interrupted: the platform does not mind.
        try:
            told.write(json.dumps(body) + "\n")
            told.close()
        except BrokenPipeError:
            return

    def announce(ready: Up) -> None:
        tell(ready.as_json())

    try:
        log = FileLog(control.log_file(settings), settings.log_file_mb << 20)
        up(settings, log, announce, plan)
    except QuiltError as error:
        if not told.closed:
            tell(_error_body(error))
        return exit_code(error)
    return 0


def _up_text(body: dict[str, Any]) -> str:
    where = f"API key in {body['key_file']}" if body["key_file"] else "API key as QUILT_API_KEY says"
    log = f"; log in {body['log_file']}" if "log_file" in body else ""
    return f"Quilt is up at {body['url']} ({where}{log})"


def _status_text(body: dict[str, Any]) -> str:
    minutes = (time.time() - body["started_at"]) / 60
    lines = [
        f"Quilt at {body['url']}, supervisor {body['pid']}, up for {minutes:.0f} min, state in {body['state_dir']}"
    ]
    lines += [
        f"  {child['name']:<8} {child['state']:<9} pid {child['pid'] or '-'}, restarts {child['restarts']}"
        for child in body["children"]
    ]
    if body["system_error"]:
        lines.append(f"  {body['system_error']}")
    system = body["system"] or {}
    redis = system.get("redis") or {}
    if not redis.get("available", True):
        lines.append("  Redis does not answer: what is deployed is served, what changes anything is answered 503")
    elif redis.get("durable") is False:
        lines.append(f"  Redis may forget what was answered as done: {redis.get('detail')}")
    for name, feature in (system.get("features") or {}).items():
        if isinstance(feature, dict) and not feature.get("available", True):
            lines.append(f"  without {name}: {feature.get('reason')}")
    return "\n".join(lines)


def _error_body(error: QuiltError) -> dict[str, Any]:
    return {"error": error.message, "error_code": error.error_code, "details": error.details, "hint": error.hint}


def _print(as_json: bool, body: dict[str, Any], text: str) -> None:
    print(json.dumps(body) if as_json else text, flush=True)


def _fail(error: QuiltError, as_json: bool) -> int:
    if as_json:
        running = {"running": False} if isinstance(error, NotRunning) else {}
        print(json.dumps({**running, **_error_body(error)}), flush=True)
    print(f"quilt: {error.message}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr)
    return exit_code(error)


if __name__ == "__main__":
    sys.exit(main())
