"""A process that is being reaped just when it is looked for: the kernel says EINVAL of it, not ESRCH (seen on 6.12).

Not here: real deaths under real kills (tests/chaos); that moment can't be hit at will.
"""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from runtime.spawner import cgroups, kernel, sandbox
from runtime.spawner.cgroups import Cgroups
from runtime.spawner.protocol import Refused
from runtime.supervisor import processes


@pytest.fixture
def code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """What pidfd_open of any process fails with."""
    number: int = getattr(request, "param", errno.EINVAL)

    def fail(pid: int, flags: int = 0) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", fail)
    return number


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ESRCH], indirect=True)
def test_it_is_gone_to_whoever_asks(code: int) -> None:
    with pytest.raises(ProcessLookupError):
        kernel.pidfd_open(os.getpid())
    with pytest.raises(Refused, match="has ended"):
        sandbox.connect(os.getpid(), sandbox.TEMPLATE_ADDRESS, 0, 0.1)
    assert processes.wait(os.getpid(), 0)


@pytest.mark.parametrize("code", [errno.EMFILE], indirect=True)
def test_any_other_failure_is_not_taken_for_an_end(code: int) -> None:
    with pytest.raises(OSError, match="Too many open files"):
        kernel.pidfd_open(os.getpid())
    with pytest.raises(OSError, match="Too many open files"):
        processes.wait(os.getpid(), 0)


def test_the_rest_of_its_group_is_killed_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reaped, alive = 1 << 22, os.getpid()  # the first is above what the kernel ever gives (PID_MAX_LIMIT)
    opened, killed = os.pidfd_open, []

    def open_unless_reaped(pid: int, flags: int = 0) -> int:
        if pid == reaped:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return opened(pid, flags)

    monkeypatch.setattr(os, "pidfd_open", open_unless_reaped)
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda pidfd, number: killed.append(number))
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    (tmp_path / "cgroup.controllers").touch()
    group = tmp_path / "quilt-p" / "c"
    group.mkdir(parents=True)
    (group / "cgroup.procs").write_text(f"{reaped}\n{alive}\n")

    Cgroups("p").terminate("c", keep=set())
    assert killed == [signal.SIGTERM]
