"""Boot a container: namespaces, id range, cgroup, network, root, and in them the static init as pid 1.

Not here: what init starts (the guest's template), and CRIU (`checkpoint`), which makes the same sandbox from a
snapshot.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from dataclasses import dataclass
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


DOMAIN = "quilt.internal"
"""In which the names of a tenant's containers are, so that they are found without it."""
TTY_GROUP = 5
"""Of the skeleton's /etc/group, as on every Debian."""
TERMINALS_MAX = 256
"""Of one container: the kernel has a few thousand for all."""
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TMPDIR": "/tmp",
    "QUILT": "1",
}


@dataclass(frozen=True, slots=True)
class Inside:
    """What is different between sandboxes: init's own arguments, and what a machine has that a template lacks."""

    arguments: tuple[str, ...]
    hostname: str = "quilt"
    terminals: bool = False
    """Whether it has pseudo-terminals of its own, which CRIU could not dump."""
    address: str | None = None
    """With `terminals`, for /etc/hosts."""
    nameserver: str | None = None
    """With `terminals`, for /etc/resolv.conf; None where there is nobody to ask."""
    init: int | None = None
    """A descriptor of init, for a root that has lived before: there /opt/quilt and /dev may be anything by now."""


def template(python: str, keep_caps: bool) -> Inside:
    """Init starts a template, which keeps the two capabilities that forking instances takes where it can fork."""
    mode = ("container",) if keep_caps else ("container", "--no-caps")
    return Inside((*mode, "--", *template_command(python)))


def boot(root: Path, base: int, network: int, groups: Cgroups, group: str, inside: Inside) -> int:
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
            _middle(root, network, groups, group, inside, report_w, go_r)
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
        # Init's exec closes the pipe; words come only where it failed, and maybe with the pid in one go.
        number, _, rest = _expect(report_r, "pid").removeprefix("pid ").partition("!")
        pid = int(number)
        rest = rest or os.read(report_r, 4096).decode()
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


def _middle(root: Path, network: int, groups: Cgroups, group: str, inside: Inside, report: int, go: int) -> None:
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
            _enter(root, tree, inside, report)
        except BaseException as error:
            os.write(report, f"!{error}".encode()[:4000])
        finally:
            os._exit(1)
    os.write(report, f"pid {pid}".encode())
    time.sleep(0)
    os.close(gate_w)
    os._exit(0)


def _enter(root: Path, tree: int, inside: Inside, report: int) -> None:
    os.setsid()
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.umask(0o022)
    socket.sethostname(inside.hostname)
    kernel.mount("", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    # What was mounted outside is locked to its place in here; a detached copy is not, and can become the root.
    kernel.move_mount(tree, str(root))
    os.chdir(root)
    quiet = kernel.MS_NOSUID | kernel.MS_NOEXEC
    kernel.mount("proc", _own_folder("proc"), "proc", quiet | kernel.MS_NODEV)
    if inside.terminals:
        kernel.mount("devpts", _own_folder("dev", "pts"), "devpts", quiet,
                     f"newinstance,ptmxmode=0666,mode=0620,gid={TTY_GROUP},max={TERMINALS_MAX}")  # fmt: skip
    init = inside.init
    outer_null = -1 if init is None else os.open("/dev/null", os.O_RDWR)
    kernel.pivot_root_here()
    os.set_inheritable(report, False)
    # First of all that looks at the container's files: a link there can name this process's descriptors, by /proc.
    kernel.close_all_but([report, outer_null, -1 if init is None else init])
    if inside.terminals:
        _name(inside)
    null = os.open("/dev/null", os.O_RDWR) if init is None else outer_null
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    path = f"{GUEST}/quilt-init"
    os.execve(path if init is None else init, [path, *inside.arguments], ENVIRONMENT)


def _own_folder(*names: str) -> str:
    """A path to the folder `names` below the working directory, made where it is missing. No link is followed: the
    writable layer is what an earlier life of the container left, and the old root is still in sight.
    """
    fd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in names:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=fd)
        try:
            below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        except OSError as error:
            raise Refused(f"the container's files leave no folder for /{'/'.join(names)}: {error.strerror}") from None
        os.close(fd)
        fd = below
    return f"/proc/self/fd/{fd}"


def _name(inside: Inside) -> None:
    """Its own name, and where to ask for others', in its /etc. This process is in the container now: a link leads
    nowhere else.
    """
    hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
    hosts += f"{inside.address or '127.0.1.1'} {inside.hostname}\n"
    resolver = "# this container has no network\n"
    if inside.nameserver:
        resolver = f"nameserver {inside.nameserver}\nsearch {DOMAIN}\noptions timeout:3\n"
    for path, text in (
        ("/etc/hostname", inside.hostname + "\n"),
        ("/etc/hosts", hosts),
        ("/etc/resolv.conf", resolver),
    ):
        try:
            fd = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644
            )
        except OSError:
            continue  # the container's users have put something else there, and may
        os.write(fd, text.encode())
        os.close(fd)


def connect(pid: int, address: str, uid: int, timeout_s: float) -> socket.socket:
    """A connection to what listens at the abstract `address` in the network namespace of `pid`.

    The caller is a child of its own: its network namespace changes. Who listens must be the user `uid` (SO_PEERCRED).
    Raises Refused (failed) when the process is gone or the deadline passed.
    """
    try:
        network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        watch = kernel.pidfd_open(pid)
    except (FileNotFoundError, ProcessLookupError):
        raise Refused("the container's init has ended", "failed") from None
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
