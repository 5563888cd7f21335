"""An init whose end waits for a child that somebody traces: killed, no zombie yet, and its pidfd silent.

Not here: CRIU, which comes to hold containers so (tests/chaos/test_kills).
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
from pathlib import Path

from runtime.spawner.context import is_ending
from tests.integration.live import wait_for

CLONE_NEWPID, PTRACE_SEIZE, WALL = 0x20000000, 0x4206, 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def sleep_in_a_namespace() -> None:
    """This process: the parent of an init, which sleeps, and has a child that does."""
    assert libc.unshare(CLONE_NEWPID) == 0
    if os.fork() == 0:
        os.fork()
        signal.pause()
    os.wait()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_it_is_ending_before_anybody_can_wait_for_it() -> None:
    outer = os.fork()
    if outer == 0:
        sleep_in_a_namespace()
        os._exit(0)
    init = wait_for(lambda: children(outer), "the init")[0]
    child = wait_for(lambda: children(init), "its child")[0]
    pidfd = os.pidfd_open(init)
    try:
        assert not is_ending(init)
        assert libc.ptrace(PTRACE_SEIZE, child, None, None) == 0, os.strerror(ctypes.get_errno())
        os.kill(init, signal.SIGKILL)
        wait_for(lambda: is_ending(init), "its end to begin")
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert not poll.poll(100), "it can't end while its child is held"
        os.waitpid(child, WALL)  # the tracer lets go
        os.waitpid(outer, 0)
        assert poll.poll(5000) and is_ending(init)
    finally:
        os.close(pidfd)
