"""The floor of a restore: `criu restore` alone, of the platform's own images and with its own arguments.

`python -m benchmarks.floor_criu SPAWNER_CONFIG SPAWNER_PID SNAPSHOT`, as root. For each line on stdin a root is made
(not timed), CRIU restores the tree into it (timed), the tree is killed; the milliseconds go to stdout. Not here: what
else a restore by the platform takes (a root, a network, a connection, the fork that serves).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from runtime.spawner import checkpoint, kernel, roots, snapshots, tenants
from runtime.spawner.cgroups import Cgroups, Limits
from runtime.spawner.names import Config

NAME = "bench-floor"
_PR_SET_CHILD_SUBREAPER = 36


def main(config: Config, spawner: int, snapshot: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # The spawner's view of the store and its /run, from which nothing of ours gets back.
    view = os.open(f"/proc/{spawner}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    kernel.setns(view, kernel.CLONE_NEWNS)
    os.close(view)
    about = snapshots.manifest(config, snapshot)
    lowers = roots.Lowers.from_json(about["lowers"])
    roots.private_namespace(config, lowers.tenant)
    kernel.unshare(kernel.CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    network = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    usr = tenants.views(config, tenants.base_id(config, lowers.tenant))[1]
    groups = Cgroups(config.platform)
    kept = config.snapshot(snapshot)
    groups.make(NAME, Limits(memory_mb=1024, cpu_percent=100, pids=256))
    try:
        print("ready", flush=True)
        for number, _ in enumerate(sys.stdin):
            name = f"{NAME}-{os.getpid()}-{number}"
            folder, root = config.state / name, roots.place(config, name)
            try:
                roots.build(config, lowers, folder, kept / "upper", root, with_usr=False)
                print(restored(config, kept / "images", root, usr, network, groups), flush=True)
            finally:
                groups.kill(NAME)
                with contextlib.suppress(ChildProcessError):
                    while os.waitpid(-1, 0):
                        pass
                roots.remove(config, name)
                shutil.rmtree(folder)
    finally:
        groups.remove(NAME)


def restored(config: Config, images: Path, root: Path, usr: Path, network: int, groups: Cgroups) -> float:
    """Milliseconds from the start of CRIU to its end. In a child, because it joins the group of what it restores."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            begun = time.perf_counter()
            checkpoint.restore_with_its_own(config, images, root, usr, network, groups, NAME)
            os.write(write, repr((time.perf_counter() - begun) * 1e3).encode())
            code = 0
        except Exception as error:
            print(f"criu: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as said:
        text = said.read()
    os.waitpid(pid, 0)
    if not text:
        raise RuntimeError("CRIU could not restore the images")
    return float(text)


if __name__ == "__main__":
    # It ends with its stdin, when all is taken away. Not SIG_IGN: CRIU would inherit that, and hang.
    signal.signal(signal.SIGTERM, lambda *_: None)
    main(Config.read(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
