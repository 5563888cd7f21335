"""What other processes do with a platform's supervisor: start it in the background, ask how it is, end it.

Not here: being it (`run`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from quilt_fn import credentials, errors
from quilt_fn.errors import NotRunning, QuiltError, Unavailable
from quilt_fn.settings import Settings
from runtime.supervisor import folders, lock, processes
from runtime.supervisor.commands import STOP_SECONDS
from runtime.supervisor.run import STATUS

PROGRAM = (sys.executable, "-P", "-m", "runtime.supervisor")
ASK_SECONDS = 5.0


def log_file(settings: Settings) -> Path:
    return Path(settings.state_dir) / "quilt.log"


def detach(settings: Settings, program: tuple[str, ...] = PROGRAM) -> dict[str, Any]:
    """Start a supervisor that outlives us; what it announced, once /health answers. Raises what it raised."""
    if os.geteuid() == 0:
        folders.make_state(settings)
    told_r, told_w = os.pipe2(os.O_CLOEXEC)
    try:
        subprocess.Popen(
            [*program, "up", "--report-fd", str(told_w)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=_append(settings),
            pass_fds=(told_w,),
            start_new_session=True,
        )
    finally:
        os.close(told_w)
    with os.fdopen(told_r) as told:
        line = told.readline()
    if not line:
        raise Unavailable("the supervisor ended before the platform was up", hint=f"see {log_file(settings)}")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise errors.from_body(answer)
    ask(f"{answer['url']}/health", None)
    return {**answer, "log_file": str(log_file(settings))}


def _append(settings: Settings) -> int:
    """The log as the supervisor's stderr: what it says there, if anything, is its own crash."""
    if not Path(settings.state_dir).is_dir():
        return subprocess.DEVNULL
    # Inherited by one program only, and closed with us.
    return os.open(log_file(settings), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)


def down(settings: Settings) -> dict[str, Any]:
    """End the platform and wait for it. Raises NotRunning; Unavailable where it does not end in its time."""
    holder = _holder(settings)
    try:
        os.kill(holder.pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise errors.Forbidden(f"process {holder.pid} is another user's", hint="sudo quilt down") from None
    patience = settings.shutdown_seconds + 5.0 + 2 * STOP_SECONDS + 10.0
    if not processes.wait(holder.pid, patience):
        raise Unavailable(f"the supervisor (pid {holder.pid}) has not ended after {patience:g} s")
    return {"pid": holder.pid, "url": holder.url}


def status(settings: Settings) -> dict[str, Any]:
    """Who runs, since when, with which children, and what the platform says of itself. Raises NotRunning."""
    holder = _holder(settings)
    try:
        children = json.loads((Path(holder.run) / STATUS).read_text())["children"]
    except FileNotFoundError:
        children = []  # it is only just starting, or ending
    body: dict[str, Any] = {
        "running": True,
        "pid": holder.pid,
        "url": holder.url,
        "started_at": holder.started_at,
        "state_dir": settings.state_dir,
        "children": children,
    }
    try:
        key = settings.api_key or credentials.lookup(holder.url)
        body["system"] = ask(f"{holder.url}/api/system/info", key)
        body["system_error"] = None
    except QuiltError as error:
        body["system"] = None
        body["system_error"] = error.message
    return body


def _holder(settings: Settings) -> lock.Holder:
    holder = lock.holder(settings)
    if holder is None:
        raise NotRunning(f"no platform runs on the state folder {settings.state_dir}", hint="`quilt up` starts one")
    return holder


def ask(url: str, key: str | None) -> Any:
    """GET `url`, by way of no proxy, as JSON. Raises Unavailable where it does not answer, or with an error."""
    request = urllib.request.Request(url, headers={"X-Api-Key": key} if key else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ASK_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            raise Unavailable(f"{url} answered {error.code}") from error
    except (OSError, ValueError) as error:
        raise Unavailable(f"{url} does not answer: {error}") from error
