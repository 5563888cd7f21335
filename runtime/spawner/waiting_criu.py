"""A CRIU that waits, linked and with nothing of its main run yet, and is forked for each restore (`criu/waiting.c`).

Starting `criu` takes as long as reading the memory of a small process: it links TLS and packet filters, which no
restore of ours uses. The process is the spawner's, is started again when it ends, and goes with it. Not here: CRIU's
arguments, and what is done where nobody waits (`checkpoint`).
"""

from __future__ import annotations

import array
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from runtime.spawner.names import Config

LISTENER = 3
"""The listening socket's number in the process, as the C side has it."""
BACKLOG = 64
LIVED_S, PAUSE_S = 1.0, 5.0
"""One that ends sooner than that after its start would likely end again, so the next one is started after a pause."""


class NotWaiting(Exception):
    """There is no CRIU that waits, or it could not run; the reason."""


class WaitingCriu:
    """`arguments`: how many `main` is to be called with, the same for all runs."""

    def __init__(self, config: Config, arguments: int) -> None:
        self._config = config
        self._arguments = arguments
        self._began = 0.0
        self.pid: int | None = None
        self.due: float | None = None
        """When it has to be started again, by time.monotonic."""

    def start(self) -> None:
        """Nothing happens where CRIU or the library is missing: then each restore starts its own CRIU."""
        self.pid = self.due = None
        if not self._config.criu or not self._config.waiting.exists():
            return
        self._began = time.monotonic()
        try:
            self._spawn()
        except OSError as error:  # no room for another process, say: restores do without until there is
            print(f"quilt spawner: no CRIU can wait now: {error}", file=sys.stderr, flush=True)
            self.due = self._began + PAUSE_S

    def _spawn(self) -> None:
        path = _socket(self._config)
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(BACKLOG)
            # Bound at once what would else be looked up by each run for itself.
            environment = {"LD_PRELOAD": str(self._config.waiting), "LD_BIND_NOW": "1", "PATH": "/usr/sbin:/usr/bin"}
            command = [*self._config.criu, *["-"] * self._arguments]
            self.pid = os.posix_spawn(
                command[0], command, environment,
                file_actions=[(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                              (os.POSIX_SPAWN_DUP2, listener.fileno(), LISTENER)],
                setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE],
            )  # fmt: skip

    def ended(self, pid: int) -> None:
        """`pid` was reaped: where it was this one, another is `due`."""
        if pid == self.pid:
            print("quilt spawner: the CRIU that waited has ended", file=sys.stderr, flush=True)
            now = time.monotonic()
            self.pid, self.due = None, now if now > self._began + LIVED_S else now + PAUSE_S

    def stop(self) -> None:
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = None


def run(config: Config, arguments: Sequence[str], descriptors: Sequence[int], timeout_s: float) -> int:
    """CRIU's exit code, with its main called with `arguments` in the mount namespace, in the network namespace and by
    the doors of the cgroup that `descriptors` name, in this order. Raises NotWaiting, TimeoutError (CRIU is killed).
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(str(_socket(config)))
            text = "".join(f"{argument}\0" for argument in arguments).encode()
            sock.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])
            word, _, rest = sock.recv(4096).decode().partition(" ")
        except TimeoutError:
            raise
        except OSError as error:
            raise NotWaiting(str(error)) from None
    if word == "exit":
        return int(rest)
    if word == "signal":
        return -int(rest)
    raise NotWaiting(rest or "it hung up")


def _socket(config: Config) -> Path:
    return config.run / "criu.sock"
