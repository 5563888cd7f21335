"""`quilt-init serve` as pid 1 of namespaces of its own, and a link to it: what a container is, without the spawner.

Not a test itself. The tests of exec, streams, terminals and logs share it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from runtime.containers.link import InitLink
from tests.integration.quilt_init import program, wait_for

CLONE_NEWNET = 0x40000000
BASE_ID, IDS = 700_000_000, 65_536

ENTER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def check(result): assert result == 0, os.strerror(ctypes.get_errno())
check(libc.unshare(0x10000000))
print("unshared", flush=True)
sys.stdin.readline()
os.setresgid(0, 0, 0); os.setgroups([]); os.setresuid(0, 0, 0)
check(libc.unshare(0x20000000 | 0x00020000 | 0x08000000 | 0x04000000 | 0x40000000))
if os.fork():
    os.wait()
    os._exit(0)
libc.prctl(1, 9)
check(libc.mount(b"none", b"/", None, 1 << 14 | 1 << 18, None))
check(libc.mount(b"proc", b"/proc", b"proc", 0, None))
check(libc.mount(b"devpts", b"/dev/pts", b"devpts", 0, b"newinstance,ptmxmode=0666,mode=0620,gid=5"))
check(libc.mount(b"tmpfs", b"/root", b"tmpfs", 0, None))
os.execv(sys.argv[1], [sys.argv[1], "serve", *sys.argv[2:]])
"""


class Served:
    """One init. `link` connects; `pid` is init's, as seen from here."""

    def __init__(self, *options: str) -> None:
        self.outer = subprocess.Popen(
            [sys.executable, "-c", ENTER, str(program()), *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.outer.stdin and self.outer.stdout
        assert self.outer.stdout.readline() == b"unshared\n"
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{self.outer.pid}/{name}").write_text(f"0 {BASE_ID} {IDS}\n")
        self.outer.stdin.write(b"go\n")
        self.outer.stdin.flush()
        self.pid: int = wait_for("init", self._init)

    def _init(self) -> int | None:
        assert self.outer.poll() is None, "init has ended"
        for pid in Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split():
            if Path(f"/proc/{pid}/comm").read_text() == "quilt-init\n":
                return int(pid)
        return None

    def connect(self) -> socket.socket:
        """A connection from this process, made in init's network namespace."""
        found: list[socket.socket] = []

        def inside() -> None:  # setns is for one thread, and a socket stays where it was made
            namespace = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
            libc = ctypes.CDLL(None, use_errno=True)
            entered = libc.setns(namespace, CLONE_NEWNET)
            os.close(namespace)
            assert entered == 0, os.strerror(ctypes.get_errno())
            found.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        sock = found[0]
        wait_for("init's socket", lambda: sock.connect_ex("\0quilt-init") == 0)
        return sock

    def link(self) -> InitLink:
        return InitLink(self.connect())

    def processes(self) -> int:
        """How many run in there, init among them."""
        return len(self.pids())

    def pids(self) -> list[int]:
        namespace = Path(f"/proc/{self.pid}/ns/pid").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "ns/pid").readlink() == namespace:
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def descriptors(self) -> list[str]:
        """What init holds open."""
        return [str(path.readlink()) for path in Path(f"/proc/{self.pid}/fd").iterdir()]

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # a test has ended it
            os.kill(self.pid, signal.SIGKILL)
        self.outer.wait(20)
        assert self.outer.stdin and self.outer.stdout
        self.outer.stdin.close()
        self.outer.stdout.close()
