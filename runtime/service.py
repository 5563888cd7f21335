"""`python -m runtime.service {install,uninstall,status}`: a systemd unit that starts the platform at boot.

Not here: starting it by hand (`runtime.supervisor`), and service managers other than systemd.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from quilt_fn import settings as quilt_settings
from quilt_fn.cli.output import show_error
from quilt_fn.errors import InvalidValue, NotFound, QuiltError, Unavailable, exit_code
from quilt_fn.settings import Settings

UNITS = Path("/etc/systemd/system")
RUNNING = Path("/run/systemd/system")
"""There where systemd is the machine's first process, sd_booted(3)."""

UNIT = """\
[Unit]
Description=Quilt, a serverless function platform ({state_dir})
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
NotifyAccess=main
ExecStart={exec_start}
{environment}
# The supervisor ends its children in order; systemd only sees to what is left.
KillMode=mixed
TimeoutStartSec=infinity
TimeoutStopSec={stop_seconds:.0f}
Restart=always
RestartSec=1
# Quilt makes cgroups for its functions; systemd is to leave them alone.
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
OOMPolicy=continue

[Install]
WantedBy=multi-user.target
"""


def unit_name(settings: Settings) -> str:
    """`quilt.service` for the default state folder, so that people can guess it; else with the platform's name."""
    return "quilt.service" if settings.state_dir == Settings().state_dir else f"quilt-{settings.platform}.service"


def unit_text(settings: Settings, environ: Mapping[str, str], python: str) -> str:
    """The unit that runs the platform as it would run now: with this interpreter and every QUILT_* that is set."""
    kept = {name: value for name, value in environ.items() if name.startswith("QUILT_")}
    kept["QUILT_STATE_DIR"] = settings.state_dir
    if "XDG_CONFIG_HOME" in environ:
        kept["XDG_CONFIG_HOME"] = environ["XDG_CONFIG_HOME"]
    return UNIT.format(
        state_dir=settings.state_dir.replace("%", "%%"),
        exec_start=" ".join(quoted(word) for word in (python, "-P", "-m", "runtime.supervisor", "up")),
        environment="\n".join(f"Environment={quoted(f'{name}={kept[name]}')}" for name in sorted(kept)),
        stop_seconds=settings.shutdown_seconds + 90.0,
    )


def quoted(word: str) -> str:
    """`word` for a unit file, where some characters mean something (systemd.syntax(7)). Raises InvalidValue."""
    if "\n" in word:
        raise InvalidValue(f"a service cannot have a setting of several lines: {word.partition('=')[0]}")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def install(settings: Settings) -> dict[str, Any]:
    """Write the unit and, where systemd runs, start it now and at boot. Idempotent."""
    path = UNITS / unit_name(settings)
    text = unit_text(settings, os.environ, sys.executable)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # It may hold QUILT_API_KEY.
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text)
    except PermissionError:
        raise Unavailable(f"only root can write {path}", hint="sudo quilt service install") from None
    if RUNNING.exists():
        systemctl("daemon-reload")
        systemctl("enable", "--now", path.name)
    return {"unit": str(path), "enabled": RUNNING.exists()}


def uninstall(settings: Settings) -> dict[str, Any]:
    """Stop the service and take its unit away; the state folder stays. Raises NotFound where it is not installed."""
    path = UNITS / unit_name(settings)
    if not path.exists():
        raise NotFound(f"no service is installed for {settings.state_dir}")
    if RUNNING.exists():
        systemctl("disable", "--now", path.name)
    path.unlink()
    if RUNNING.exists():
        systemctl("daemon-reload")
    return {"unit": str(path), "removed": True}


def status(settings: Settings) -> dict[str, Any]:
    path = UNITS / unit_name(settings)
    body: dict[str, Any] = {"unit": str(path), "installed": path.exists(), "systemd": RUNNING.exists(), "active": None}
    if RUNNING.exists():
        done = subprocess.run(["systemctl", "is-active", path.name], capture_output=True, text=True, check=False)
        body["active"] = done.stdout.strip()
    return body


def systemctl(*words: str) -> None:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(
            f"systemctl {' '.join(words)}: {done.stderr.strip() or done.returncode}", hint="see journalctl -xe"
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="quilt service", description="Start the platform at boot, by systemd.")
    parser.add_argument("action", choices=("install", "uninstall", "status"))
    parser.add_argument("--state-dir", help="instead of QUILT_STATE_DIR")
    parser.add_argument("--json", action="store_true", help="for programs")
    wanted = parser.parse_args(argv)
    try:
        settings = quilt_settings.read()
        settings = replace(settings, state_dir=str(Path(wanted.state_dir or settings.state_dir).absolute()))
        body = {"install": install, "uninstall": uninstall, "status": status}[wanted.action](settings)
    except QuiltError as error:
        if wanted.json:
            show_error(error, as_json=True)
        else:
            print(f"quilt: {error.message}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr)
        return exit_code(error)
    print(json.dumps(body) if wanted.json else sentence(body))
    return 0


def sentence(body: Mapping[str, Any]) -> str:
    """What `body` says, for people."""
    if "removed" in body:
        return f"{body['unit']} is gone; the state folder stays."
    if "enabled" in body:
        if body["enabled"]:
            return f"{body['unit']} is installed: the platform runs now, and after each boot."
        return f"{body['unit']} is written, but systemd does not run here: nothing was started."
    if not body["installed"]:
        return f"{body['unit']} is not installed."
    return f"{body['unit']} is installed; " + (
        f"it is {body['active']}." if body["systemd"] else "systemd does not run here."
    )


if __name__ == "__main__":
    sys.exit(main())
