"""A real platform, started by the supervisor as a person would start it, and a client of its HTTP API.

Not here: what is counted to see that nothing was left (`census`), and the fixtures (`conftest`).
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quilt_fn.settings import Settings
from tests.slowness import patience

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S, ANSWER_TIMEOUT_S = patience(30.0), patience(90.0)


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """The first true answer of `condition`."""
    deadline = time.monotonic() + timeout_s
    pause = 0.005
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


@dataclass(slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The error_code of an error body."""
        return self.json().get("error_code") if self.status >= 400 else None

    @property
    def start(self) -> str | None:
        return self.headers.get("x-quilt-start")


@dataclass
class Live:
    """One platform: its folders, its processes, its API. Stopped by `stop`, which also looks that it ends well."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="quilt-live-", dir="/var/tmp")))
    extra: dict[str, str] = field(default_factory=dict)
    key: str = field(default_factory=lambda: "quilt_sk_" + secrets.token_hex(16))
    port: int = 0
    process: subprocess.Popen[str] | None = None

    def __post_init__(self) -> None:
        self.folder.chmod(0o755)
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = int(sock.getsockname()[1])

    @property
    def settings(self) -> Settings:
        return Settings(state_dir=str(self.folder / "state"), port=self.port)

    @property
    def root_dir(self) -> Path:
        return self.settings.root_dir

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        """In the foreground; returns when it says that it is up."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("QUILT_")}
        environment = {
            **kept,
            "QUILT_STATE_DIR": self.settings.state_dir,
            "QUILT_PORT": str(self.port),
            "QUILT_API_KEY": self.key,
            "QUILT_SHUTDOWN_SECONDS": "5",
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            **self.extra,
        }
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "runtime.supervisor", "up"],
                cwd=REPOSITORY, env=environment, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert "Quilt is up" in said, self.log.read_text()[-4000:]

    def stop(self) -> None:
        """SIGTERM and its end."""
        assert self.process is not None
        process, self.process = self.process, None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(60)
        finally:
            assert process.stdout is not None
            process.stdout.close()
        assert code == 0, self.log.read_text()[-4000:]

    def remove(self) -> None:
        subprocess.run(["rm", "-rf", str(self.folder)], check=True)

    # --- its processes --------------------------------------------------------------------------------------------

    def children(self) -> dict[str, dict[str, Any]]:
        listed = json.loads((self.settings.run_path / "status.json").read_text())["children"]
        return {child["name"]: child for child in listed}

    def pid(self, name: str) -> int:
        return int(wait_for(lambda: self.children()[name]["pid"], f"{name} to have a process"))

    def kill(self, name: str) -> int:
        """kill -9, and wait until the supervisor has another that is ready; the new pid."""
        old = self.pid(name)
        os.kill(old, signal.SIGKILL)

        def back() -> int:
            child = self.children()[name]
            return int(child["pid"]) if child["pid"] not in (None, old) and child["state"] == "ready" else 0

        return int(wait_for(back, f"{name} to come back"))

    def redis(self, *words: str) -> str:
        done = subprocess.run(
            ["redis-cli", "-s", str(self.settings.redis_socket), *words], capture_output=True, text=True, check=True
        )
        return done.stdout

    # --- HTTP -----------------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None,
            key: str | None = "", timeout_s: float = ANSWER_TIMEOUT_S) -> Answer:  # fmt: skip
        """One request on a connection of its own. A body that is not bytes goes as JSON; key None sends none."""
        fields = dict(headers or {})
        if key is not None:
            fields["X-Api-Key"] = key or self.key
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            fields.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path, body, fields)
            got = connection.getresponse()
            return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
        finally:
            connection.close()

    def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        got = self.ask(method, path, body, **more)
        assert got.status < 300, (got.status, got.body[:4000])
        return got.json() if got.body else None

    def call(self, name: str, event: Any = None, **more: Any) -> Any:
        """What the function answered: a value, or text where it returned text."""
        got = self.ask("POST", f"/fn/{name}", {} if event is None else event, **more)
        assert got.status < 300, (got.status, got.body[:4000])
        return got.json() if got.headers["content-type"] == "application/json" else got.body.decode()

    def many(self, count: int, work: Callable[[int], Any], workers: int = 16) -> list[Any]:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(work, range(count)))

    # --- functions ------------------------------------------------------------------------------------------------

    def create(self, source: str, name: str | None = None, **spec: Any) -> str:
        """A function of one file's text, not deployed; its name."""
        name = name or "t-" + secrets.token_hex(5)
        body = {"name": name, "handler": "main:handler", "source": textwrap.dedent(source), **spec}
        self.ok("POST", "/api/functions", body)
        return name

    def deploy(self, source: str, name: str | None = None, **spec: Any) -> str:
        """Deployed and ready; its name."""
        name = self.create(source, name, **spec)
        self.ok("POST", f"/api/functions/{self.id(name)}/deploy")
        return name

    def record(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ok("GET", f"/api/functions/by-name/{name}")
        return found

    def id(self, name: str) -> str:
        return str(self.record(name)["id"])

    def pool(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ok("GET", f"/api/functions/{self.id(name)}/pool")
        return found

    def invocation(self, name: str, payload: Any = None, **more: Any) -> dict[str, Any]:
        """By the invoke route: the invocation's record, also of one that failed."""
        found: dict[str, Any] = self.ok("POST", f"/api/functions/invoke/{name}", {"payload": payload, **more})
        return found

    def way(self, name: str, kind: str) -> dict[str, Any]:
        """The entry of `start_paths` for fork, restore or boot."""
        return next(p for p in self.record(name)["start_paths"] if p["kind"] == kind)

    def drop_instances(self, name: str, *, template: bool = False, snapshot: bool = False) -> None:
        """End all instances (by a pause), and, where wanted, live template and snapshot: the next start is cold."""
        function_id = self.id(name)
        self.ok("POST", f"/api/functions/{function_id}/pause")
        if template or snapshot:
            more = "?snapshot=true" if snapshot else ""
            self.ok("POST", f"/api/functions/{function_id}/template/drop{more}")
        self.ok("POST", f"/api/functions/{function_id}/resume")

    def delete(self, name: str) -> None:
        got = self.ask("DELETE", f"/api/functions/{self.id(name)}")
        assert got.status == 204, got.body


@contextmanager
def running(**more: Any) -> Iterator[Live]:
    """A platform from its start to its end, and nothing left of it."""
    assert os.geteuid() == 0, "these tests make real sandboxes: run them as root"
    assert shutil.which("redis-server"), "these tests need redis-server: run `make setup`"
    live = Live(**more)
    try:
        live.start()
        yield live
        live.stop()
        assert not live.settings.run_path.exists(), "the run folder is still there"
    finally:
        if live.process is not None:
            live.process.terminate()
            try:
                live.process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                live.process.kill()
                live.process.communicate()
        live.remove()
