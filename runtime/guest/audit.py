"""The fork audit: what forks of this process would share with each other, and what CRIU could not dump.

A function with findings starts its instances another way; it never fails for them. Not here: what is done about it.

Threads. A Python thread does not live on in a fork, and what it was doing is lost: always a finding. A native thread
is one that `threading` does not know; a pool of OpenBLAS or MKL stops at a fork and comes up again by handlers of its
own, so as many threads are allowed as the mapped ones of these libraries can have started, one less than there are
processors for each. Who started a native thread cannot be seen, so what is above that number has no name.

Files. A writable file is one file for all forks. One open for reading shares its position, and where its mount is
writable, or where it is a folder, it leads by /proc/self/fd or `..` into the template's own root, which an instance
must not reach. A file on a read-only mount is no finding: `reopen_files` gives each fork a position of its own.
"""

from __future__ import annotations

import _thread
import os
import re
import sys

from . import descriptors
from .descriptors import Descriptor

GHOST_LIMIT_BYTES = 1 << 20
"""CRIU's default limit for a file that has been deleted: it has to be stored in the images."""
_FORK_SAFE = re.compile(r"/lib(?:[a-z_]*openblas[a-z0-9_]*|mkl_rt|iomp5)[-.\w]*\.so")
_NEVER_DUMPED = frozenset(
    {"io_uring", "userfaultfd", "perf_event", "bpf-map", "bpf-prog", "seccomp notify", "landlock-ruleset", "secretmem"}
)


def audit(own_fds: set[int]) -> list[str]:
    """One sentence for each thing that forks would share. `own_fds` are the guest's; files that they show are, too."""
    return _threads() + _children() + _mappings() + _shared_descriptors(own_fds)


def undumpable(own_fds: set[int] | None = None) -> list[str]:
    """One sentence for each thing that CRIU cannot take, in this machine's setting; an empty list promises nothing."""
    found = []
    for each in descriptors.opened():
        if each.number in (own_fds or set()):
            continue
        reason = _why_undumpable(each)
        if reason:
            found.append(f"{each} {reason}")
    return found + [f"the mapping of {path} is of a device" for path in _device_mappings()]


def read_only_files(own_fds: set[int]) -> list[int]:
    """The descriptors of files that are open for reading alone: a fork shares nothing of them but their position."""
    return [
        each.number
        for each in descriptors.opened()
        if each.number not in own_fds and each.kind == "file" and not each.writable
    ]


def reopen_files(numbers: list[int]) -> None:
    """In a fork: give each of these files a position of its own. Raises OSError."""
    for number in numbers:
        position = os.lseek(number, 0, os.SEEK_CUR)
        fresh = os.open(f"/proc/self/fd/{number}", os.O_RDONLY | os.O_CLOEXEC)
        os.lseek(fresh, position, os.SEEK_SET)
        os.dup2(fresh, number, inheritable=os.get_inheritable(number))
        os.close(fresh)


def _threads() -> list[str]:
    python = _python_threads()
    found = [f"the thread {name} of Python runs" for name in python]
    native = len(_tasks()) - 1 - len(python)
    allowed = len(_fork_safe_libraries()) * (_processors() - 1)
    if native > allowed:
        found.append(f"{native - allowed} native threads run that no library with fork handlers accounts for")
    return found


def _python_threads() -> list[str]:
    """Their names; but for this one. `threading` is not imported for it: its handler at forks costs each one a third
    of a millisecond, and a function that does without it is spared that.
    """
    threading = sys.modules.get("threading")
    if threading is None:
        return ["without a name"] * _thread._count()
    me = _thread.get_native_id()
    return [repr(t.name) for t in threading.enumerate() if t.native_id != me]


def _tasks() -> list[str]:
    return os.listdir("/proc/self/task")


def _processors() -> int:
    return max(os.cpu_count() or 1, len(os.sched_getaffinity(0)))


def _fork_safe_libraries() -> set[str]:
    return {path for _, path in _maps() if _FORK_SAFE.search(path)}


def _children() -> list[str]:
    """A child process has one parent, and no fork of it."""
    found = []
    for task in _tasks():
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                pids = file.read().split()
        except FileNotFoundError:  # a thread that has ended, or a kernel without CONFIG_PROC_CHILDREN
            continue
        found += [f"the child process {pid} ({_name(pid)}) runs" for pid in pids]
    return found


def _name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return "gone by now"


def _maps() -> list[tuple[str, str]]:
    """(permissions, path or name) of each mapping."""
    with open("/proc/self/maps") as file:
        parts = [line.rstrip("\n").split(None, 5) for line in file]
    return [(part[1], part[5] if len(part) > 5 else "") for part in parts]


def _mappings() -> list[str]:
    paths = dict.fromkeys(path for permissions, path in _maps() if permissions[1] == "w" and permissions[3] == "s")
    return [f"memory is shared and writable: a mapping of {path or 'no file'}" for path in paths]


def _device_mappings() -> list[str]:
    paths = {path for _, path in _maps()}
    return sorted(
        path for path in paths if path.startswith("/dev/") and not path.startswith(("/dev/shm/", "/dev/zero"))
    )


def _shared_descriptors(own_fds: set[int]) -> list[str]:
    everything = descriptors.opened()
    own = own_fds | _loop_descriptors()
    same = {each.identity for each in everything if each.number in own and each.kind == "file"}
    found = []
    for each in everything:
        if each.number in own or (each.kind == "file" and each.identity in same):
            continue
        reason = _why_shared(each)
        if reason:
            found.append(f"{each} {reason}")
    return found


def _loop_descriptors() -> set[int]:
    """The guest's event loop, if one was made: `loop` replaces its sockets in each fork."""
    loop = sys.modules.get(f"{__package__}.loop")
    current = loop.current() if loop is not None else None
    return set(current.descriptors()) if current is not None and not current.is_closed() else set()


def _why_shared(each: Descriptor) -> str | None:
    if each.kind == "device" and each.target in descriptors.HARMLESS_DEVICES:
        return None
    if each.kind == "file":
        if each.writable:
            return "is open for writing"
        return None if each.read_only_mount else "is open, on a mount that can be written to"
    if each.kind in ("directory", "path"):
        return "is open, and leads into the template's root"
    return "is open"


def _why_undumpable(each: Descriptor) -> str | None:
    if each.kind in _NEVER_DUMPED:
        return "is of a kind that CRIU cannot dump"
    if each.kind == "device" and each.target not in descriptors.HARMLESS_DEVICES | {"/dev/tty", "/dev/ptmx"}:
        return "is a device, of which CRIU cannot dump the state"
    if each.locked:
        return "holds a file lock"
    if each.deleted_bytes > GHOST_LIMIT_BYTES:
        return f"is a deleted file of {each.deleted_bytes} bytes, too large for a dump"
    if each.kind == "socket":
        return _why_socket_undumpable(each.number)
    return None


def _why_socket_undumpable(number: int) -> str | None:
    import socket

    with descriptors.socket_of(number) as sock:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            if sock.type == socket.SOCK_STREAM:
                try:
                    sock.getpeername()
                except OSError:
                    return None
                return "is an open connection, which does not live on in a snapshot"
            return None if sock.proto in (0, socket.IPPROTO_UDP) else "is of a protocol that CRIU cannot dump"
        return None if sock.family in (socket.AF_UNIX, socket.AF_NETLINK) else "is of a family that CRIU cannot dump"
