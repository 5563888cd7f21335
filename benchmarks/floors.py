"""The floors as their measurer sees them: each a process of its own, started for a suite and ended with it.

Not here: what runs in those processes (`bare`, `floor_fork`, `floor_criu`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.private import REPOSITORY, Private, free_port
from benchmarks.together import send_all
from benchmarks.wire import CallFailed, Http

END_TIMEOUT_S = 20.0
CROWD_BACKLOG = 256


@contextmanager
def _process(argv: Sequence[str], pass_fds: Sequence[int] = ()) -> Iterator[subprocess.Popen[str]]:
    """A process that said `ready`. At the end its stdin is closed and it is sent SIGTERM."""
    process = subprocess.Popen(
        argv, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=pass_fds
    )
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        try:
            if process.stdout.readline() != "ready\n":
                raise CallFailed(f"a floor did not start: {' '.join(argv)}")
            yield process
        finally:
            process.stdin.close()
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(END_TIMEOUT_S)
            finally:
                process.kill()


@contextmanager
def bare() -> Iterator[Http]:
    """A client of a bare aiohttp app. Its port is the client's."""
    port = free_port()
    with _process([sys.executable, "-m", "benchmarks.bare", str(port)]):
        http = Http(port)
        try:
            yield http
        finally:
            http.close()


class Forks:
    """A process that forks a child for each connection."""

    def __init__(self, address: str) -> None:
        self._address = address

    def _connected(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self._address)
        return sock

    def one(self) -> float:
        """Milliseconds from connecting to the child's answer."""
        begun = time.perf_counter()
        with self._connected() as sock:
            sock.sendall(b"0")
            if sock.recv(64) != b"{}":
                raise CallFailed("the fork floor did not answer")
            return (time.perf_counter() - begun) * 1e3

    def crowd(self, size: int, sleep_ms: float) -> list[float]:
        """As many at once, each child sleeping as long: milliseconds of each since the first began."""
        begun = time.perf_counter()
        socks = [self._connected() for _ in range(size)]
        connected_ms = (time.perf_counter() - begun) * 1e3
        try:
            return [connected_ms + ms for ms, _ in send_all(socks, str(sleep_ms).encode(), bool)]
        finally:
            for sock in socks:
                sock.close()


@contextmanager
def forks(python: str, layer: Path | None, modules: Sequence[str]) -> Iterator[Forks]:
    """By the image's own Python, with the function's own layer."""
    with tempfile.TemporaryDirectory(prefix="quilt-bench-") as folder, socket.socket(socket.AF_UNIX) as listener:
        address = f"{folder}/floor.sock"
        listener.bind(address)
        listener.listen(CROWD_BACKLOG)
        script = str(REPOSITORY / "benchmarks" / "floor_fork.py")
        argv = [python, "-I", "-S", "-B", "-X", "utf8", script, str(listener.fileno()), str(layer or ""), *modules]
        with _process(argv, (listener.fileno(),)):
            yield Forks(address)


class Restores:
    """CRIU alone."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def one(self) -> float:
        """Milliseconds of one `criu restore`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        if not said:
            raise CallFailed("the floor of restores ended; its reason is above")
        return float(said)


@contextmanager
def restores(private: Private, bundle_id: str) -> Iterator[Restores]:
    """Of the newest snapshot that was taken of a function with this bundle."""
    snapshot = newest_snapshot(private.settings.root_dir / "snapshots", bundle_id)
    config = str(private.settings.run_path / "spawner.json")
    argv = [sys.executable, "-m", "benchmarks.floor_criu", config, str(private.pid("spawner")), snapshot]
    with _process(argv) as process:
        yield Restores(process)


def newest_snapshot(folder: Path, bundle_id: str) -> str:
    """Raises CallFailed where there is none."""
    found = []
    for path in folder.glob("snp_*/manifest.json"):
        about = json.loads(path.read_text())["manifest"]
        if about["lowers"]["bundle"] == bundle_id and about["dump"]:
            found.append((about["taken_at"], path.parent.name))
    if not found:
        raise CallFailed(f"there is no snapshot of bundle {bundle_id}")
    return str(max(found)[1])


def boot_once(python: str, layer: Path | None, modules: Sequence[str]) -> float:
    """Milliseconds until a plain Python, started with the same options, has imported the same modules."""
    code = f"import sys; sys.path.append({str(layer or '')!r})\nimport os\n"
    code += "".join(f"import {name}\n" for name in modules) + "os.write(1, b'ready')"
    begun = time.perf_counter()
    process = subprocess.Popen([python, "-I", "-S", "-B", "-X", "utf8", "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        said = os.read(process.stdout.fileno(), 64)
        ms = (time.perf_counter() - begun) * 1e3
    process.wait()
    if said != b"ready":
        raise CallFailed(f"a plain {python} could not import {', '.join(modules)}")
    return ms


def load(port: int, path: str, connections: int, seconds: float, key: str = "") -> float:
    """Requests per second. Raises CallFailed where one of them failed."""
    argv = [sys.executable, "-m", "benchmarks.load", str(port), path, str(connections), str(seconds)]
    done = subprocess.run(
        argv, cwd=REPOSITORY, env={**os.environ, "BENCH_KEY": key}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise CallFailed(f"the load generator failed: {done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    if found["errors"]:
        raise CallFailed(f"{found['errors']} of {found['requests']} requests of the load failed")
    return float(found["per_s"])
