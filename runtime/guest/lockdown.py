"""System calls by which template and instance enter namespaces and give up rights, by ctypes.

Not here: the filters themselves (`init/seccomp.c`; the instance's is read from a file that init wrote at set-up).
"""

from __future__ import annotations

import ctypes
import os
import resource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID = 0x00020000, 0x04000000, 0x08000000, 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_PROC_FLAGS = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
_PR_CAPBSET_DROP, _PR_SET_SECCOMP, _PR_CAP_AMBIENT, _SECCOMP_MODE_FILTER, _AMBIENT_CLEAR = 24, 22, 47, 2, 4
_CAP_SETPCAP, _CAP_SYS_ADMIN = 8, 21
_CAPABILITY_VERSION_3 = 0x20080522
_MOVE_MOUNT_F_EMPTY_PATH, _AT_FDCWD, _MNT_DETACH = 4, -100, 2
_MOVE_MOUNT, _PIVOT_ROOT = ctypes.c_long(429), ctypes.c_long(155 if os.uname().machine == "x86_64" else 41)
FILTER = "/opt/quilt/instance.bpf"

_libc = ctypes.CDLL(None, use_errno=True)


def _function(name: str, *kinds: Any, gives: Any = ctypes.c_int) -> Callable[..., int]:
    """Looked up and described now: what a call would make on the way, each fork would make again, in memory that it has
    to copy first.
    """
    function = getattr(_libc, name)
    function.argtypes, function.restype = kinds, gives
    return function  # type: ignore[no-any-return]


_text, _word = ctypes.c_char_p, ctypes.c_ulong
_setns = _function("setns", ctypes.c_int, ctypes.c_int)
_unshare = _function("unshare", ctypes.c_int)
_mount = _function("mount", _text, _text, _text, _word, _text)
_umount = _function("umount2", _text, ctypes.c_int)
_capset = _function("capset", ctypes.c_void_p, ctypes.c_void_p)
_prctl = _function("prctl", ctypes.c_int, _word, ctypes.c_void_p, _word, _word)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> None:
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{what}: {os.strerror(errno)}")


def setns(fd: int, kind: int) -> None:
    _check(_setns(fd, kind), "setns")


def unshare(flags: int) -> None:
    _check(_unshare(flags), "unshare")


def enter_root(tree: int) -> None:
    """Make the detached mount `tree` the root, with a /proc of the caller's own pid namespace."""
    _check(_syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, b"/mnt", _MOVE_MOUNT_F_EMPTY_PATH), "move_mount")
    _check(_mount(b"proc", b"/mnt/proc", b"proc", _PROC_FLAGS, None), "mount proc")
    os.chdir("/mnt")
    _check(_syscall(_PIVOT_ROOT, b".", b"."), "pivot_root")
    _check(_umount(b".", _MNT_DETACH), "umount")
    os.chdir("/")


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


_header = _Header(_CAPABILITY_VERSION_3, 0)
_nothing = (_Data * 2)()
_capset_of_nothing = ctypes.addressof(_header), ctypes.addressof(_nothing)


class Filter:
    """A seccomp program, laid out for the kernel ahead of the forks that install it."""

    def __init__(self, program: bytes) -> None:
        self._code = ctypes.create_string_buffer(program, len(program))
        self._program = _Program(len(program) // 8, ctypes.addressof(self._code))
        self._address = ctypes.addressof(self._program)

    def install(self) -> None:
        _check(_prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, self._address, 0, 0), "seccomp")


def drop_everything(instance_filter: Filter) -> None:
    """Give up every capability for good, and install the instance's filter. no_new_privs is set by init."""
    for number in (_CAP_SETPCAP, _CAP_SYS_ADMIN):  # all that init left in the bounding set
        _prctl(_PR_CAPBSET_DROP, number, None, 0, 0)
    _prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR, None, 0, 0)
    _check(_capset(*_capset_of_nothing), "capset")
    instance_filter.install()


def limits() -> None:
    """No core files; and batch scheduling: being woken by the node does not push the node off its processor."""
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def read_filter() -> Filter:
    with open(FILTER, "rb") as file:
        return Filter(file.read())
