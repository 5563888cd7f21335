"""What a descriptor of this process is, from /proc/self: a sentence for people, and its kind for decisions.

Not here: which kinds may be there at a fork or a dump (`audit`).
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

HARMLESS_DEVICES = frozenset({"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"})
_O_PATH = getattr(os, "O_PATH", 0o10000000)
_ANONYMOUS = {
    "[eventpoll]": "epoll", "inotify": "inotify", "[eventfd]": "eventfd", "[timerfd]": "timerfd",
    "[signalfd]": "signalfd", "[io_uring]": "io_uring", "[userfaultfd]": "userfaultfd", "[fanotify]": "fanotify",
    "[perf_event]": "perf_event", "[pidfd]": "pidfd",
}  # fmt: skip


class Descriptor:
    """`kind` is file, directory, path, device, pipe, socket, epoll, inotify, …; `target` is what /proc says of it.

    `identity` is (device, inode). `read_only_mount` only says something about files and directories. `deleted_bytes` is
    the size of a file that has no name any more, 0 for any other.
    """

    __slots__ = ("deleted_bytes", "identity", "kind", "locked", "number", "read_only_mount", "target", "writable")

    def __init__(
        self, number: int, kind: str, target: str, writable: bool, read_only_mount: bool, locked: bool,
        identity: tuple[int, int], deleted_bytes: int,
    ) -> None:  # fmt: skip
        self.number = number
        self.kind = kind
        self.target = target
        self.writable = writable
        self.read_only_mount = read_only_mount
        self.locked = locked
        self.identity = identity
        self.deleted_bytes = deleted_bytes

    def __str__(self) -> str:
        if self.kind == "socket":
            return f"descriptor {self.number} ({_socket_text(self.number)})"
        return f"descriptor {self.number} ({self.kind} {self.target})"


def opened() -> list[Descriptor]:
    """Every descriptor of this process, in order; the one that this listing itself needs is not among them."""
    found = []
    for number in sorted(int(name) for name in _listing()):
        try:
            found.append(_describe(number))
        except FileNotFoundError:  # the listing's own, closed by now
            continue
    return found


def _listing() -> list[str]:
    return os.listdir("/proc/self/fd")


def _describe(number: int) -> Descriptor:
    target = os.readlink(f"/proc/self/fd/{number}")
    with open(f"/proc/self/fdinfo/{number}") as file:
        lines = file.read().splitlines()
    flags = next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))
    status = os.fstat(number)
    regular = stat.S_ISREG(status.st_mode)
    return Descriptor(
        number=number,
        kind=_kind(target, status.st_mode, flags),
        target=target,
        writable=flags & os.O_ACCMODE != os.O_RDONLY,
        read_only_mount=bool(os.fstatvfs(number).f_flag & os.ST_RDONLY),
        locked=any(line.startswith("lock:") for line in lines),
        identity=(status.st_dev, status.st_ino),
        deleted_bytes=status.st_size if regular and status.st_nlink == 0 and "/memfd:" not in target else 0,
    )


def _kind(target: str, mode: int, flags: int) -> str:
    if target.startswith("anon_inode:"):
        name = target.removeprefix("anon_inode:")
        return _ANONYMOUS.get(name, name.strip("[]"))
    if target.startswith("pidfd:") or "pidfd" in target.partition(":")[0]:
        return "pidfd"
    if flags & _O_PATH:
        return "path"
    if stat.S_ISSOCK(mode) and target.startswith("socket:"):
        return "socket"
    if stat.S_ISFIFO(mode):
        return "pipe"
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "device"
    if target.startswith(("mnt:", "pid:", "net:", "user:", "ipc:", "uts:", "cgroup:", "time:")):
        return "namespace"
    return "memfd" if target.startswith("/memfd:") else "file"


def socket_of(number: int) -> socket.socket:
    """A second socket object on the descriptor: close it."""
    import socket

    return socket.socket(fileno=os.dup(number))


def _socket_text(number: int) -> str:
    import socket

    with socket_of(number) as sock:
        kind = {socket.SOCK_STREAM: "stream", socket.SOCK_DGRAM: "datagram"}.get(sock.type, sock.type.name)
        try:
            family = socket.AddressFamily(sock.family).name.removeprefix("AF_")
        except ValueError:
            family = str(sock.family)
        text = f"{family} {kind} socket"
        for word, ask in (("at", sock.getsockname), ("connected to", sock.getpeername)):
            try:
                address = ask()
            except OSError:  # not connected
                continue
            if address:
                text += f" {word} {_address(address)}"
        return text


def _address(address: object) -> str:
    if isinstance(address, tuple) and len(address) >= 2 and isinstance(address[0], str):
        return f"{address[0]}:{address[1]}"
    return repr(address)
