"""CRIU: dump a container and leave it running, restore it into a new root. Its traps are noted where
they bite.

Both run inside the container's network namespace, so that CRIU sees no namespace of its own to save (which would call
`ip` and `iptables-restore`, 25 to 130 ms), and with `--manage-cgroups=ignore`: a restore's CRIU is in the group before
it runs. A restore is a fork of the CRIU that waits (`waiting_criu`), and where that is away a CRIU of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from runtime.spawner import kernel, programs, waiting_criu
from runtime.spawner.cgroups import Cgroups
from runtime.spawner.context import in_child, is_ending
from runtime.spawner.names import Config
from runtime.spawner.protocol import Refused
from runtime.spawner.roots import USR_KEY

TIMEOUT_S = 60.0
LOG, PIDFILE = "log", "pid"
ENDED = "the container ended while it was dumped"


def dump(config: Config, pid: int, folder: Path) -> None:
    """Write the memory and state of the tree below `pid` into `folder`. The caller is a child of its own.

    Raises Refused (failed) with CRIU's own reason, or because the container was killed meanwhile. CRIU may then wait
    for ever for what it had stopped; and init can't even become a zombie, since CRIU, its tracer, has to wait for what
    died before it.
    """
    try:
        network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Refused(ENDED, "failed") from None
    kernel.setns(network, kernel.CLONE_NEWNET)
    os.close(network)
    with _work(config, "dump") as work:
        arguments = [
            "dump", *_options(folder, work), "-t", str(pid), "--leave-running", "--network-lock", "skip",
            "--external", f"mnt[/usr]:{USR_KEY}", "--file-locks", "--ghost-limit", "8M",
        ]  # fmt: skip
        code, said = _run(config, "dump", arguments, lambda: is_ending(pid))
        _check("dump", code, said, work)


def restore(config: Config, folder: Path, root: Path, usr: Path, network: int, groups: Cgroups, group: str) -> int:
    """Bring the tree in `folder` back on `root`; the pid of its init. The caller is a child with a private mount
    namespace. Raises Refused (failed) with CRIU's own reason.
    """
    doors = groups.doors(group)
    mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _work(config, "restore") as work:
            arguments = _restore_arguments(folder, work, root, usr)
            code, said = waiting_criu.run(config, arguments, [mounts, network, *doors], TIMEOUT_S), ""
            return _restored(code, said, work)
    except TimeoutError:
        raise _too_long("restore") from None
    except waiting_criu.NotWaiting:
        pid: int = in_child(lambda: restore_with_its_own(config, folder, root, usr, network, groups, group))
        return pid
    finally:
        for fd in (mounts, *doors):
            os.close(fd)


def restore_with_its_own(
    config: Config, folder: Path, root: Path, usr: Path, network: int, groups: Cgroups, group: str
) -> int:
    """`restore` by a CRIU that is started for it. The caller is a child of its own, whose cgroup and network change."""
    groups.join(group)
    kernel.setns(network, kernel.CLONE_NEWNET)
    with _work(config, "restore") as work:
        return _restored(*_run(config, "restore", _restore_arguments(folder, work, root, usr)), work)


def _restore_arguments(folder: Path, work: Path, root: Path, usr: Path) -> list[str]:
    return [
        "restore", *_options(folder, work), "--root", str(root), "--restore-detached",
        "--external", f"mnt[{USR_KEY}]:{usr}", "--pidfile", str(work / PIDFILE), "--file-locks",
    ]  # fmt: skip


def _restored(code: int, said: str, work: Path) -> int:
    _check("restore", code, said, work)
    return int((work / PIDFILE).read_text())


@contextlib.contextmanager
def _work(config: Config, verb: str) -> Iterator[Path]:
    """A folder for what CRIU writes beside the images (log, statistics, pid): it must not lie among what was signed."""
    work = config.run / f"criu-{verb}-{os.getpid()}"
    work.mkdir(mode=0o700, exist_ok=True)
    try:
        yield work
    finally:
        for path in work.iterdir():
            path.unlink()
        work.rmdir()


def _options(folder: Path, work: Path) -> list[str]:
    return ["-D", str(folder), "-W", str(work), "-o", LOG, "-v1", "--manage-cgroups=ignore", "--ext-unix-sk"]


def _run(config: Config, verb: str, arguments: list[str], in_vain: Callable[[], bool] | None = None) -> tuple[int, str]:
    """Exit code and what was said on stderr. Raises Refused where there is no CRIU, or not in time."""
    if not config.criu:
        raise Refused("CRIU is not installed; see `quilt doctor`", "failed")
    try:
        done = programs.run(*config.criu, *arguments, timeout_s=TIMEOUT_S, in_vain=in_vain)
    except TimeoutError:
        raise _too_long(verb) from None
    except ProcessLookupError:
        raise Refused(ENDED, "failed") from None
    return done.code, done.said


def _too_long(verb: str) -> Refused:
    return Refused(f"criu {verb} took over {TIMEOUT_S:g} s", "failed")


def _check(verb: str, code: int, said: str, work: Path) -> None:
    if code != 0:
        log = work / LOG
        words = ((log.read_text(errors="replace") if log.exists() else "") or said).strip()
        raise Refused(f"criu {verb} failed: {reason(words)}", "failed", {"log": words[-4000:]})


def reason(log: str) -> str:
    """The first error of a CRIU log, which is the cause; the later ones are what followed from it.

    Where this machine withholds CAP_SYS_RESOURCE, CRIU complains of its own limit of open files, which is harmless.
    """
    for line in log.splitlines():
        found = re.search(r"Error \([^)]*\):\s*(.*)", line)
        if found and "RLIMIT_NOFILE for self" not in line:
            return found.group(1)
    return log.splitlines()[-1] if log else "it said nothing"


RESTORE_ARGUMENTS = len(_restore_arguments(Path(), Path(), Path(), Path()))
"""How many a CRIU that waits has to be started for."""
