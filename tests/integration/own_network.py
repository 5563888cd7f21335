"""A network namespace for a test: a machine of its own with an uplink to an outside world, both gone afterwards.

Not here: any platform; what runs in it is the spawner's own code, in a forked child.
"""

from __future__ import annotations

import os
import socket
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

from runtime.spawner import kernel, namespaces
from runtime.spawner.names import Config
from tests.slowness import patience

OUTSIDE = "198.51.100.1"
"""An address that plays the world beyond the uplink."""
METADATA = "169.254.169.254"
ANSWER_S = patience(1.5)
"""How long an answer is waited for; the kernel asks again after one second."""


def config(folder: Path, platform: str = "0123456789ab") -> Config:
    """Of a spawner that has no need for the rest."""
    return Config(
        state=folder / "state", run=folder / "run", socket=folder / "s", platform=platform, node_uid=0, node_gid=0,
        criu=(), init=Path(), instance_bpf=Path(), waiting=Path(),
        repo=Path(), python="", uv="", cloudpickle=Path(), netns_pool=2,
    )  # fmt: skip


def own_machine(folder: Path, work: Callable[[], None]) -> None:
    """Run `work` in a child whose network, mounts and /sys are its own; what it raises is an AssertionError here."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWNET)
            kernel.mount("", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
            kernel.mount("sysfs", "/sys", "sysfs")
            for name in ("state", "run/mnt"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            kernel.mount("quilt", str(folder / "run/mnt"), "tmpfs")
            _uplink()
            work()
            code = 0
        except BaseException:
            os.write(write, traceback.format_exc()[-60_000:].encode())
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as said:
        words = said.read()
    assert os.waitpid(pid, 0)[1] == 0 and not words, words


def _uplink() -> None:
    outside = namespaces.make()
    here = f"/proc/{os.getpid()}/fd/{outside}"
    ip(f"link set lo up\nlink add up0 type veth peer name eth0 netns {here}\naddr add 203.0.113.2/24 dev up0\n"
       "link set up0 up\nroute add default via 203.0.113.1\n")  # fmt: skip
    inside(outside, lambda: ip(f"addr add 203.0.113.1/24 dev eth0\nlink set eth0 up\naddr add {OUTSIDE}/32 dev lo\n"
                               f"addr add {METADATA}/32 dev lo\n"))  # fmt: skip
    answering(outside, OUTSIDE, 80)
    answering(outside, METADATA, 80)
    ip(f"route add {METADATA} via 203.0.113.1")


def ip(batch: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input=batch.encode(), check=True, capture_output=True)


def inside(namespace: int, work: Callable[[], object]) -> object:
    """What `work` gives in the namespace; the caller is back in its own afterwards."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    kernel.setns(namespace, kernel.CLONE_NEWNET)
    try:
        return work()
    finally:
        kernel.setns(here, kernel.CLONE_NEWNET)
        os.close(here)


def answering(namespace: int | None, address: str, port: int) -> None:
    """Somebody who tells each connection whose address he sees. Goes with the test's child."""

    def listen() -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(16)
        return sock

    sock = listen() if namespace is None else inside(namespace, listen)
    assert isinstance(sock, socket.socket)
    if os.fork():
        sock.close()
        return
    kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
    while True:
        connection, peer = sock.accept()
        connection.sendall(peer[0].encode())
        connection.close()


def seen_at(namespace: int | None, address: str, port: int = 80, source: str | None = None) -> str:
    """The address that the other side sees, of a connection from the namespace; the error where there is none."""

    def connect() -> socket.socket:
        sock = socket.socket()
        sock.settimeout(ANSWER_S)
        if source is not None:
            sock.setsockopt(socket.SOL_IP, socket.IP_FREEBIND if hasattr(socket, "IP_FREEBIND") else 15, 1)
            sock.bind((source, 0))
        return sock

    sock = connect() if namespace is None else inside(namespace, connect)
    assert isinstance(sock, socket.socket)
    with sock:
        try:
            sock.connect((address, port))
            return sock.recv(64).decode()
        except OSError as error:
            return type(error).__name__ if error.errno is None else os.strerror(error.errno)
