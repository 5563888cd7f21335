"""Puts a second generation in a snapshot's place: restores it, and dumps the process that was restored.

`python -m tests.integration.generations SPAWNER_CONFIG SPAWNER_PID SNAPSHOT`, as root, while the platform runs. The
platform itself never does that: it dumps what it has booted. What is done here is done with the spawner's own code, in
its mount namespace, as its children do it. Not here: what the copies must not share (`test_snapshots`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys

from quilt_fn.model.common import new_id
from runtime.spawner import checkpoint, kernel, snapshots
from runtime.spawner.cgroups import Cgroups
from runtime.spawner.context import in_child
from runtime.spawner.names import Config
from runtime.spawner.networks import Networks
from runtime.spawner.operations import Operations
from runtime.spawner.protocol import Refused

LIMITS = {"memory_mb": 512, "cpu_percent": 100, "pids": 64}
TIMEOUT_S = 20.0


def main(config: Config, spawner: int, snapshot: str) -> None:
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)  # what CRIU leaves behind is ours to reap
    view = os.open(f"/proc/{spawner}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    kernel.setns(view, kernel.CLONE_NEWNS)
    os.close(view)
    operations = Operations(config, Cgroups(config.platform), Networks(config), print)
    container = new_id("ctr")
    pid = in_child(lambda: restored(operations, container, snapshot))
    try:
        refusal(operations, container, snapshot)
        dumped_again(config, container, pid, snapshot)
    finally:
        in_child(lambda: operations.delete({"container": container}, [])[0])
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)


def restored(operations: Operations, container: str, snapshot: str) -> int:
    """The pid of the container's init, with its template at the fork point and nobody connected."""
    answer, fds = operations.restore(
        {"container": container, "snapshot": snapshot, "network": "none", "label": "second generation", **LIMITS}, []
    )
    with socket.socket(fileno=fds[0]) as control:
        control.settimeout(TIMEOUT_S)
        control.send(b'{"op": "quiet"}')
        assert control.recv(100) == b'{"op": "quiet"}'
        assert control.recv(100) == b"", "the template hangs up, so that it can be dumped"
    return int(answer["pid"])


def refusal(operations: Operations, container: str, snapshot: str) -> None:
    """By itself the spawner takes no snapshot of it: its files are partly in the one that it came from."""
    try:
        in_child(lambda: operations.snapshot({"container": container, "snapshot": snapshot}, [])[0])
    except Refused as error:
        assert "was restored" in str(error), error
    else:
        raise AssertionError("a snapshot without the files of the one before was taken")


def dumped_again(config: Config, container: str, pid: int, snapshot: str) -> None:
    """The images of the restored tree, signed, on the files of the first snapshot: nothing has written any since."""
    about = {key: snapshots.manifest(config, snapshot)[key] for key in ("lowers", "facts", "dump")}
    new = config.state / "snapshots" / f".{snapshot}.{os.getpid()}"
    (new / "images").mkdir(parents=True)
    in_child(lambda: checkpoint.dump(config, pid, new / "images"))
    written = [path for path in (config.container(container) / "upper").rglob("*") if not path.is_dir()]
    assert written == [], written
    # Moved, not copied: the kits of the platform stand on this very folder.
    (config.snapshot(snapshot) / "upper").rename(new / "upper")
    snapshots.finish(config, snapshot, new, about)


if __name__ == "__main__":
    main(Config.read(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
