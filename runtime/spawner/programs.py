"""Run a program to its end and have what it said.

By posix_spawn and files in memory, not by `subprocess`: that imports `threading`, whose handler runs in each fork of
this process, one for each request at least, and copies half a megabyte there, which takes as long as the fork itself.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

LOOK_S = 0.2
"""How often whoever runs a program is asked whether it is in vain."""


@dataclass(frozen=True, slots=True)
class Done:
    """`code` as a shell has it, negative for the signal that ended it."""

    code: int
    out: bytes
    err: bytes

    @property
    def said(self) -> str:
        """On stderr, for people."""
        return self.err.decode(errors="replace").strip()


class ProgramFailed(RuntimeError):
    """It ended with another code than 0; the message has its own words."""

    def __init__(self, command: tuple[str, ...], done: Done) -> None:
        how = f"was ended by signal {-done.code}" if done.code < 0 else f"ended with code {done.code}"
        super().__init__(f"`{' '.join(command)[:200]}` {how}: {done.said or 'it said nothing'}")
        self.done = done


def run(*command: str, given: bytes = b"", timeout_s: float | None = None, in_vain: Callable[[], bool] | None = None,
        environment: Mapping[str, str] | None = None) -> Done:  # fmt: skip
    """The program `command[0]`, from the PATH, with `given` on its stdin.

    Raises FileNotFoundError; TimeoutError when it was killed for its time; ProcessLookupError when it was killed
    because it worked in vain, which is asked a few times a second of a program that has a time.
    """
    files = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("in", "out", "err")]
    try:
        os.write(files[0], given)
        os.lseek(files[0], 0, os.SEEK_SET)
        pid = os.posix_spawnp(
            command[0], command, dict(os.environ if environment is None else environment),
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(files)],
            setsigdef=[signal.SIGPIPE, signal.SIGCHLD],
        )  # fmt: skip
        code = os.waitstatus_to_exitcode(_wait(pid, timeout_s, in_vain))
        return Done(code, _content(files[1]), _content(files[2]))
    finally:
        for fd in files:
            os.close(fd)


def checked(*command: str, given: bytes = b"", environment: Mapping[str, str] | None = None) -> bytes:
    """What `run` has on stdout. Raises ProgramFailed too."""
    done = run(*command, given=given, environment=environment)
    if done.code != 0:
        raise ProgramFailed(command, done)
    return done.out


def _wait(pid: int, timeout_s: float | None, in_vain: Callable[[], bool] | None) -> int:
    if timeout_s is not None:
        deadline = time.monotonic() + timeout_s
        watch = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(watch, select.POLLIN)
            while (left_s := deadline - time.monotonic()) > 0:
                if poll.poll((left_s if in_vain is None else min(left_s, LOOK_S)) * 1e3):
                    return os.waitpid(pid, 0)[1]
                if in_vain is not None and in_vain():
                    _kill(pid)
                    raise ProcessLookupError
            _kill(pid)
            raise TimeoutError
        finally:
            os.close(watch)
    return os.waitpid(pid, 0)[1]


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _content(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0)
