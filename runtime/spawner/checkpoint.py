"""CRIU: dump a container and leave it running, restore it into a new root. Its traps are noted where
they bite.

Both run inside the container's network namespace, so that CRIU sees no namespace of its own to save (which would call
`ip` and `iptables-restore`, 25 to 130 ms), and with `--manage-cgroups=ignore`: a restore joins its group before CRIU
starts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from runtime.spawner import kernel
from runtime.spawner.cgroups import Cgroups
from runtime.spawner.names import Config
from runtime.spawner.protocol import Refused
from runtime.spawner.roots import USR_KEY

TIMEOUT_S = 60.0


def dump(config: Config, pid: int, folder: Path) -> None:
    """Write the memory and state of the tree below `pid` into `folder`. The caller is a child of its own.

    Raises Refused (failed) with CRIU's own reason.
    """
    network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    kernel.setns(network, kernel.CLONE_NEWNET)
    os.close(network)
    _run(
        config, folder, "dump",
        ["-t", str(pid), "--leave-running", "--network-lock", "skip", "--external", f"mnt[/usr]:{USR_KEY}",
         "--file-locks", "--ghost-limit", "8M"],
    )  # fmt: skip


def restore(config: Config, folder: Path, root: Path, usr: Path, network: int, groups: Cgroups, group: str) -> int:
    """Bring the tree in `folder` back on `root`; the pid of its init. The caller is a child with a private mount
    namespace.
    """
    groups.join(group)
    kernel.setns(network, kernel.CLONE_NEWNET)
    pidfile = config.run / f"restored-{os.getpid()}.pid"
    pidfile.unlink(missing_ok=True)
    _run(
        config, folder, "restore",
        ["--root", str(root), "--restore-detached", "--external", f"mnt[{USR_KEY}]:{usr}", "--pidfile", str(pidfile),
         "--file-locks"],
    )  # fmt: skip
    pid = int(pidfile.read_text())
    pidfile.unlink()
    return pid


def _run(config: Config, folder: Path, verb: str, options: list[str]) -> None:
    if not config.criu:
        raise Refused("CRIU is not installed; see `quilt doctor`", "failed")
    # What CRIU writes beside the images (log, statistics) must not lie among what was signed.
    work = Path(tempfile.mkdtemp(dir=config.run, prefix=f"criu-{verb}-"))
    command = [
        *config.criu,
        verb,
        "-D",
        str(folder),
        "-W",
        str(work),
        "-o",
        "log",
        "-v1",
        "--manage-cgroups=ignore",
        "--ext-unix-sk",
        *options,
    ]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False, close_fds=True
        )
    except subprocess.TimeoutExpired:
        raise Refused(f"criu {verb} took over {TIMEOUT_S:g} s", "failed") from None
    finally:
        path = work / "log"
        words = path.read_text(errors="replace") if path.exists() else ""
        shutil.rmtree(work)
    if done.returncode != 0:
        said = (words or done.stderr.decode(errors="replace")).strip()
        raise Refused(f"criu {verb} failed: {reason(said)}", "failed", {"log": said[-4000:]})


def reason(log: str) -> str:
    """The first error of a CRIU log, which is the cause; the later ones are what followed from it.

    Where this machine withholds CAP_SYS_RESOURCE, CRIU complains of its own limit of open files, which is harmless.
    """
    for line in log.splitlines():
        found = re.search(r"Error \([^)]*\):\s*(.*)", line)
        if found and "RLIMIT_NOFILE for self" not in line:
            return found.group(1)
    return log.splitlines()[-1] if log else "it said nothing"
