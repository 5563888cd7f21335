"""Boot a container: namespaces, id range, cgroup, network, root, and in them the static init as pid 1.

Not here: what init starts (the guest's template), and CRIU (`checkpoint`), which makes the same sandbox from a
snapshot.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from runtime.spawner import kernel, tenants
from runtime.spawner.cgroups import Cgroups
from runtime.spawner.images import GUEST
from runtime.spawner.protocol import Refused

NAMESPACES = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWPID
TEMPLATE_ADDRESS = "\0quilt-template"
"""Abstract, so it is the network namespace's, needs no folder, and CRIU restores it without one."""

_BOOT = f"import sys; sys.path.insert(0, '{GUEST}/guest'); from _quilt_guest.template import main; main()"


def template_command(python: str) -> list[str]:
    return [python, "-I", "-S", "-B", "-X", "utf8", "-c", _BOOT]


ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TMPDIR": "/tmp",
    "QUILT": "1",
}


def boot(
    root: Path, base: int, network: int, groups: Cgroups, group: str, command: Sequence[str], keep_caps: bool
) -> int:
    """Start init in a new sandbox on `root`; the pid of init, as this machine counts. The caller has a private mount
    namespace.

    Raises Refused (kind failed) when any step inside fails, with that step's words; nothing runs then.
    """
    report_r, report_w = os.pipe()
    go_r, go_w = os.pipe()
    middle = os.fork()
    if middle == 0:
        try:
            os.close(go_w)
            os.close(report_r)
            _middle(root, network, groups, group, command, keep_caps, report_w, go_r)
        except BaseException as error:
            os.write(report_w, f"!{error}".encode()[:4000])
        finally:
            os._exit(1)
    os.close(report_w)
    os.close(go_r)
    try:
        _expect(report_r, "unshared")
        tenants.write_maps(middle, base)
        os.write(go_w, b"1")
        pid = int(_expect(report_r, "pid").split()[1])
        rest = os.read(report_r, 4096).decode()  # init's exec closes the pipe; words come only where it failed
        if rest:
            raise Refused(f"the sandbox could not be entered: {rest.lstrip('!')}", "failed")
        return pid
    finally:
        os.close(report_r)
        os.close(go_w)
        os.waitpid(middle, 0)


def _expect(fd: int, word: str) -> str:
    text = os.read(fd, 4096).decode()
    if not text.startswith(word):
        raise Refused(f"the sandbox could not be made: {text.lstrip('!') or 'its process died'}", "failed")
    return text


def _middle(root: Path, network: int, groups: Cgroups, group: str, command: Sequence[str], keep_caps: bool,
            report: int, go: int) -> None:  # fmt: skip
    tree = kernel.open_tree(str(root), kernel.OPEN_TREE_CLONE | kernel.AT_RECURSIVE)
    groups.join(group)
    kernel.setns(network, kernel.CLONE_NEWNET)
    kernel.unshare(NAMESPACES)
    os.write(report, b"unshared")
    os.read(go, 1)
    # A process of its own reports the pid before the new init can write to the pipe.
    gate_r, gate_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(gate_w)
            os.read(gate_r, 1)
            _enter(root, tree, command, keep_caps, report)
        except BaseException as error:
            os.write(report, f"!{error}".encode()[:4000])
        finally:
            os._exit(1)
    os.write(report, f"pid {pid}".encode())
    time.sleep(0)
    os.close(gate_w)
    os._exit(0)


def _enter(root: Path, tree: int, command: Sequence[str], keep_caps: bool, report: int) -> None:
    os.setsid()
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.umask(0o022)
    socket.sethostname("quilt")
    kernel.mount("", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    # What was mounted outside is locked to its place in here; a detached copy is not, and can become the root.
    kernel.move_mount(tree, str(root))
    os.chdir(root)
    kernel.mount("proc", "proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    kernel.pivot_root_here()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.set_inheritable(report, False)
    kernel.close_all_but([report])
    mode = ["container"] if keep_caps else ["container", "--no-caps"]
    os.execve(f"{GUEST}/quilt-init", [f"{GUEST}/quilt-init", *mode, "--", *command], ENVIRONMENT)


def connect(pid: int, address: str, uid: int, timeout_s: float) -> socket.socket:
    """A connection to what listens at the abstract `address` in the network namespace of `pid`.

    The caller is a child of its own: its network namespace changes. Who listens must be the user `uid` (SO_PEERCRED).
    Raises Refused (failed) when the process is gone or the deadline passed.
    """
    network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    watch = os.pidfd_open(pid)
    kernel.setns(network, kernel.CLONE_NEWNET)
    os.close(network)
    deadline = time.monotonic() + timeout_s
    pause = 0.0003
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.setblocking(False)  # a queue of connections that nobody accepts would hold this process for ever
        try:
            sock.connect(address)
            break
        except OSError:
            sock.close()
            if not alive(watch):
                raise Refused("the container's init has ended", "failed") from None
            if time.monotonic() > deadline:
                raise Refused(f"the template does not listen after {timeout_s:g} s", "failed") from None
            time.sleep(pause)
            pause = min(pause * 1.5, 0.01)
    os.close(watch)
    peer = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if peer[1] != uid or not _same_namespace(peer[0], pid):
        # Instances share the network and the user; they are in pid namespaces of their own.
        sock.close()
        raise Refused("something else than the template listens at its address", "failed")
    return sock


def _same_namespace(one: int, other: int) -> bool:
    try:
        return Path(f"/proc/{one}/ns/pid").readlink() == Path(f"/proc/{other}/ns/pid").readlink()
    except OSError:
        return False


def alive(pidfd: int) -> bool:
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return not poll.poll(0)
