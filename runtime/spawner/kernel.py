"""The system calls that Python 3.11 has no function for, by ctypes. Each raises OSError with the call's name.

Not here: what they are used for. Numbers are the same on every architecture for calls added since Linux 5.0.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterable

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE, MS_SLAVE = 16384, 1 << 18, 1 << 19
MNT_DETACH = 2

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_IDMAP = 0x00100000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 1, 2, 4, 8, 16
_BENEATH_TRIES = 32
"""The kernel answers EAGAIN where a rename came between, which a hostile process can make happen often."""

CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID = 0, 1, 3, 4

_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_OPENAT2, _SYS_MOUNT_SETATTR = 428, 429, 437, 442
_CAPABILITY_VERSION_3 = 0x20080522
_STATX_MNT_ID, _STATX_BYTES, _STATX_MNT_ID_AT = 0x1000, 256, 144

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, kind: int) -> None:
    _check(_libc.setns(fd, kind), f"setns({kind:#x})")


def mount(source: str, target: str, fstype: str | None, flags: int = 0, data: str = "") -> None:
    _check(
        _libc.mount(
            source.encode(), target.encode(), fstype.encode() if fstype else None, ctypes.c_ulong(flags), data.encode()
        ),
        f"mount({source} on {target})",
    )


def umount(target: str, flags: int = MNT_DETACH) -> None:
    _check(_libc.umount2(target.encode(), flags), f"umount({target})")


def pivot_root_here() -> None:
    """Make the working directory the root, and let go of the old one."""
    _check(_libc.syscall(ctypes.c_long(_pivot_root_number()), b".", b"."), "pivot_root")
    umount(".")
    os.chdir("/")


def _pivot_root_number() -> int:
    machine = os.uname().machine
    if machine not in ("x86_64", "aarch64"):
        raise OSError(f"no system call numbers for {machine}")
    return 155 if machine == "x86_64" else 41


def open_tree(path: str, flags: int, directory: int = AT_FDCWD) -> int:
    """A detached copy of the mount(s) at `path`, as a descriptor."""
    return _check(
        _libc.syscall(ctypes.c_long(_SYS_OPEN_TREE), directory, path.encode(), flags | OPEN_TREE_CLOEXEC),
        f"open_tree({path})",
    )


def move_mount(tree: int, target: str, directory: int = AT_FDCWD) -> None:
    """Attach the detached mount `tree` at `target`. With an open `directory`, `target` is a name in it, and no link."""
    if directory != AT_FDCWD:
        fd = os.open(target, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            move_mount_onto(tree, fd)
        finally:
            os.close(fd)
    else:
        _move_mount(tree, directory, target, MOVE_MOUNT_F_EMPTY_PATH)


def move_mount_onto(tree: int, folder: int) -> None:
    """Attach the detached mount `tree` on the open `folder` (O_PATH will do)."""
    _move_mount(tree, folder, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)


def _move_mount(tree: int, directory: int, target: str, flags: int) -> None:
    _check(
        _libc.syscall(ctypes.c_long(_SYS_MOVE_MOUNT), tree, b"", directory, target.encode(), ctypes.c_uint(flags)),
        f"move_mount({target})",
    )


def mount_setattr(tree: int, attributes: int, userns: int = 0, recursive: bool = False) -> None:
    """Set attributes of a detached mount; with MOUNT_ATTR_IDMAP, by the id map of the user namespace `userns`."""
    attr = _MountAttr(attr_set=attributes, userns_fd=userns)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _check(
        _libc.syscall(
            ctypes.c_long(_SYS_MOUNT_SETATTR),
            tree,
            b"",
            flags,
            ctypes.byref(attr),
            ctypes.c_size_t(ctypes.sizeof(attr)),
        ),
        "mount_setattr",
    )


def open_beneath(directory: int, path: str, flags: int, resolve: int = 0, *, mounts: bool = False) -> int:
    """Open what `path` names beneath `directory`, however links and renames may twist it: never anything outside of it.

    Links are followed as long as they stay beneath (ELOOP with RESOLVE_NO_SYMLINKS); no magic links, and no other
    mounts. With `mounts` the directory is taken for the root: other mounts in it are entered, and absolute links begin
    at it.
    Raises OSError: EXDEV where the way leads out, EAGAIN where it was changed all the time.
    """
    resolve |= RESOLVE_NO_MAGICLINKS | (RESOLVE_IN_ROOT if mounts else RESOLVE_BENEATH | RESOLVE_NO_XDEV)
    how = _OpenHow(flags=flags | os.O_CLOEXEC, resolve=resolve)
    name = os.fsencode(path)
    for left in reversed(range(_BENEATH_TRIES)):
        fd: int = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2), directory, name, ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
        )
        if fd >= 0 or ctypes.get_errno() != errno.EAGAIN or left == 0:
            return _check(fd, f"open {path!r}")
    raise AssertionError("not reached")


def mount_id(directory: int, name: str = "") -> int:
    """Which mount the open `directory` lies in, or the entry `name` in it. What is renamed must stay in one."""
    found = ctypes.create_string_buffer(_STATX_BYTES)
    flags = AT_SYMLINK_NOFOLLOW | (0 if name else AT_EMPTY_PATH)
    _check(_libc.statx(directory, os.fsencode(name), flags, _STATX_MNT_ID, found), f"statx {name!r}")
    return int.from_bytes(found.raw[_STATX_MNT_ID_AT : _STATX_MNT_ID_AT + 8], sys.byteorder)


def pidfd_open(pid: int) -> int:
    """Raises ProcessLookupError. A process that is being reaped while it is looked for is EINVAL to the kernel (seen on
    6.12), not ESRCH; a pid of cgroup.procs or of ours can't be a mere thread, of which it says that too.
    """
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
        raise


def keep_capabilities(wanted: Iterable[int]) -> None:
    """Let go of every capability but `wanted`, for good: the process can't gain any again."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    mask = sum(1 << each for each in wanted)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(mask, mask, 0, 0, 0, 0)
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(data)), "capset")


def prctl(option: int, argument: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0), f"prctl({option})")


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor above 2 that is not in `keep`."""
    low = 3
    for fd in sorted({fd for fd in keep if fd > 2}):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 65536)
