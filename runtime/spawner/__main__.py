"""`python -m runtime.spawner --config FILE`: set the stage (mounts, bridge, cgroups), serve, and leave nothing
behind.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from pathlib import Path

from runtime.spawner import checkpoint, kernel, machines, sweeping
from runtime.spawner.cgroups import Cgroups
from runtime.spawner.facts import facts, with_criu_that_runs
from runtime.spawner.names import Config
from runtime.spawner.networks import Networks
from runtime.spawner.server import Server
from runtime.spawner.waiting_criu import WaitingCriu

INOTIFY_INSTANCES = 8192
"""All ids of a machine's user share this limit, and its default of 128 is soon used up by many containers."""


def main() -> int:
    if os.geteuid() != 0 or len(sys.argv) != 3 or sys.argv[1] != "--config":
        print("quilt spawner: needs root and --config FILE", file=sys.stderr)
        return 2
    config = Config.read(sys.argv[2])
    os.umask(0o022)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    for folder in (config.state, config.store, config.store / "bundles", config.store / "layers"):
        folder.mkdir(parents=True, exist_ok=True)
    config.state.chmod(0o700)
    listener = _listen(config)
    _stage(config)
    config = with_criu_that_runs(config)
    groups = Cgroups(config.platform)
    missing = groups.prepare()
    if missing:
        print(f"quilt spawner: cgroup controllers missing: {', '.join(missing)}; see `quilt doctor`", file=sys.stderr)
        return 1
    sweeping.sweep(config, groups, sweeping.kits_there(config))
    sweeping.collect(config)
    networks = Networks(config)
    networks.prepare(machines.alive(config), {ctr for ctr, _ in machines.there(config)})
    reasons = (networks.reason, networks.containers.reason, networks.containers.egress_reason, groups.swap_unlimited())
    for reason in reasons:
        if reason:
            print(f"quilt spawner: {reason}", file=sys.stderr)
    _raise_limit(Path("/proc/sys/fs/inotify/max_user_instances"), INOTIFY_INSTANCES)
    waiting = WaitingCriu(config, checkpoint.RESTORE_ARGUMENTS)
    waiting.start()
    facts(config)  # what is looked up once is looked up now, and known to every child
    gc.collect()
    gc.freeze()  # no request's child looks at what is there by now: it would copy the page of each object
    _ready()
    try:
        Server(config, groups, networks, waiting).run(listener)
    finally:
        waiting.stop()
        sweeping.end_all(config, groups)
        if not networks.reason:
            networks.teardown()
        if not networks.containers.reason:
            networks.containers.teardown()
        config.socket.unlink(missing_ok=True)
    return 0


def _listen(config: Config) -> socket.socket:
    config.socket.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(config.socket))
    os.chown(config.socket, config.node_uid, config.node_gid)
    config.socket.chmod(0o600)
    listener.listen(8)
    return listener


def _stage(config: Config) -> None:
    """A mount namespace of our own, with a tmpfs for mount points: all of it goes with us, also after SIGKILL.

    And a tmpfs on /run where that is none: otherwise CRIU probes the kernel again at each run (36 ms instead of 11).
    """
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("", "/", None, kernel.MS_REC | kernel.MS_SLAVE)
    config.mounts.mkdir(parents=True, exist_ok=True)
    kernel.mount("quilt", str(config.mounts), "tmpfs", kernel.MS_NOSUID, "mode=0711")
    kernel.mount("", str(config.mounts), None, kernel.MS_PRIVATE)
    if _filesystem("/run") != "tmpfs":
        keep = kernel.open_tree(str(config.run), kernel.OPEN_TREE_CLONE | kernel.AT_RECURSIVE)
        kernel.mount("quilt", "/run", "tmpfs", kernel.MS_NOSUID, "mode=0755")
        kernel.mount("", "/run", None, kernel.MS_PRIVATE)
        if str(config.run).startswith("/run/"):
            config.run.mkdir(parents=True)
            kernel.move_mount(keep, str(config.run))
        os.close(keep)


def _filesystem(path: str) -> str:
    found = ""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        words = line.split()
        if words[1] == path:
            found = words[2]
    return found


def _raise_limit(path: Path, value: int) -> None:
    if int(path.read_text()) < value:
        path.write_text(str(value))


def _ready() -> None:
    fd = os.environ.get("QUILT_READY_FD")
    if fd:
        os.write(int(fd), b"ready\n")
        os.close(int(fd))


if __name__ == "__main__":
    sys.exit(main())
