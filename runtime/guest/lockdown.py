"""System calls by which template and instance enter namespaces and give up rights, by ctypes.

Not here: the filters themselves (`init/seccomp.c`; the instance's is read from a file that init wrote at set-up).
"""

from __future__ import annotations

import ctypes
import os
import resource

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID = 0x00020000, 0x04000000, 0x08000000, 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_PR_CAPBSET_DROP, _PR_SET_SECCOMP, _PR_CAP_AMBIENT, _SECCOMP_MODE_FILTER, _AMBIENT_CLEAR = 24, 22, 47, 2, 4
_CAP_SETPCAP, _CAP_SYS_ADMIN = 8, 21
_CAPABILITY_VERSION_3 = 0x20080522
_MOVE_MOUNT, _MOVE_MOUNT_F_EMPTY_PATH, _AT_FDCWD, _MNT_DETACH = 429, 4, -100, 2
_PIVOT_ROOT = 155 if os.uname().machine == "x86_64" else 41
FILTER = "/opt/quilt/instance.bpf"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> None:
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{what}: {os.strerror(errno)}")


def setns(fd: int, kind: int) -> None:
    _check(_libc.setns(fd, kind), "setns")


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def enter_root(tree: int) -> None:
    """Make the detached mount `tree` the root, with a /proc of the caller's own pid namespace."""
    _check(
        _libc.syscall(
            ctypes.c_long(_MOVE_MOUNT), tree, b"", _AT_FDCWD, b"/mnt", ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH)
        ),
        "move_mount",
    )
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _check(_libc.mount(b"proc", b"/mnt/proc", b"proc", flags, None), "mount proc")
    os.chdir("/mnt")
    _check(_libc.syscall(ctypes.c_long(_PIVOT_ROOT), b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount")
    os.chdir("/")


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def drop_everything(program: bytes) -> None:
    """Give up every capability for good, and install the instance's filter. no_new_privs is set by init."""
    for number in (_CAP_SETPCAP, _CAP_SYS_ADMIN):  # all that init left in the bounding set
        _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    _libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR, 0, 0, 0)
    header = _Header(_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(ctypes.byref(header), ctypes.byref((_Data * 2)())), "capset")
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = _Program(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    _check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(fprog), 0, 0), "seccomp")


def limits() -> None:
    """No core files; and batch scheduling: being woken by the node does not push the node off its processor."""
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def read_filter() -> bytes:
    with open(FILTER, "rb") as file:
        return file.read()
