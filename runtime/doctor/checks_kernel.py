"""What the kernel and its mounts offer: versions, namespaces, cgroups, overlay, id maps, seccomp, userfaultfd, /run.

Pure: everything is asked of a `Machine`. Not here: programs and the network (`checks_tools`).
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from quilt_fn.settings import Settings
from runtime.doctor.finding import Finding
from runtime.doctor.machine import Machine

KERNEL_WANTED = (6, 1)
CONTROLLERS = ("memory", "cpu", "pids")
IDMAP_FILESYSTEMS = frozenset({"ext4", "xfs", "btrfs"})
NEW_KERNEL = "use a distribution kernel of 6.1 or later (Debian 12 and 13 have one)"


def root(machine: Machine, settings: Settings) -> Finding:
    ok = machine.uid() == 0
    return Finding(
        "root",
        ok,
        "running as root" if ok else f"running as uid {machine.uid()}",
        "only root can start the spawner, which makes the sandboxes; several findings below are guesses",
        "run it with sudo",
        required=True,
    )


def kernel(machine: Machine, settings: Settings) -> Finding:
    found = re.match(r"(\d+)\.(\d+)", machine.kernel())
    ok = found is not None and (int(found[1]), int(found[2])) >= KERNEL_WANTED
    return Finding(
        "kernel",
        ok,
        machine.kernel(),
        "sandboxes need id-mapped overlay layers, which came with 6.1",
        NEW_KERNEL,
        required=True,
    )


def user_namespaces(machine: Machine, settings: Settings) -> Finding:
    limit = machine.read("/proc/sys/user/max_user_namespaces")
    there = machine.exists("/proc/self/ns/user")
    ok = there and limit is not None and int(limit) > 0
    detail = (
        f"up to {limit.strip()}"
        if ok and limit
        else "switched off (max_user_namespaces is 0)"
        if there
        else "not in this kernel"
    )
    return Finding(
        "user namespaces",
        ok,
        detail,
        "no function can be isolated from the machine",
        "sysctl user.max_user_namespaces=15000" if there else NEW_KERNEL,
        required=True,
    )


def cgroups(machine: Machine, settings: Settings) -> Finding:
    """v2 alone (`unified`), v1 with a v2 tree beside it (`hybrid`), or v1 (`legacy`); which controllers can limit."""
    layout, controllers = cgroup_layout(machine)
    missing = [name for name in CONTROLLERS if name not in controllers]
    detail = f"{layout}, controllers: {' '.join(sorted(controllers)) or 'none'}"
    if missing:
        detail += f"; missing: {' '.join(missing)}"
    return Finding(
        "cgroups",
        not missing,
        detail,
        "memory, cpu and process limits cannot be enforced, so nothing is started",
        "boot with the controllers on (kernel options cgroup_enable=memory systemd.unified_cgroup_hierarchy=1)",
        required=True,
    )


def cgroup_layout(machine: Machine) -> tuple[str, frozenset[str]]:
    """(v2 | hybrid | v1 | none, the controllers that can be used)."""
    unified = machine.read("/sys/fs/cgroup/cgroup.controllers")
    if unified is not None:
        return "v2", frozenset(unified.split())
    names: set[str] = set()
    beside = False
    for _, _, kind, options in mounts(machine):
        if kind == "cgroup":
            names |= {
                word for word in options if word in (*CONTROLLERS, "cpuacct", "cpuset", "blkio", "freezer", "devices")
            }
        beside = beside or kind == "cgroup2"
    return ("hybrid" if beside else "v1") if names else "none", frozenset(names)


def swap(machine: Machine, settings: Settings) -> Finding:
    """Whether the limits of memory count what is swapped out. On v2 only groups below the root have the file."""
    layout, _ = cgroup_layout(machine)
    swaps = machine.read("/proc/swaps")
    used = swaps is not None and len(swaps.splitlines()) > 1
    groups, limit, file = ["/sys/fs/cgroup/memory"], "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
    if layout == "v2":
        own = re.search(r"^0::(/.*)$", machine.read("/proc/self/cgroup") or "", re.MULTILINE)
        names = [own[1].strip("/") if own else "", "init.scope", "system.slice"]
        groups, limit, file = [f"/sys/fs/cgroup/{name}" for name in names if name], "memory.max", "memory.swap.max"
    seen = [group for group in groups if machine.exists(f"{group}/{limit}")]
    if layout == "none":
        ok, detail = False, "there are no cgroups to limit it in"
    elif swaps is None:
        ok, detail = True, "this kernel has no swap"
    elif any(machine.exists(f"{group}/{file}") for group in seen):
        ok, detail = True, f"limited by {file}"
    else:
        detail = f"no {file} in this kernel" if seen else f"no group to look for {file} in; /api/system/info will know"
        ok, detail = not used, f"{detail}; {'swap is on' if used else 'no swap is on'}"
    return Finding(
        "swap limit",
        ok,
        detail,
        "what a function uses over its memory limit goes to swap, instead of ending it",
        "boot with the kernel option swapaccount=1, or switch swap off (swapoff -a)",
    )


def mounts(machine: Machine) -> list[tuple[str, str, str, list[str]]]:
    """(source, folder, filesystem, options) of each mount, the latest last."""
    found = []
    for line in (machine.read("/proc/self/mounts") or "").splitlines():
        words = line.split()
        if len(words) >= 4:
            found.append((words[0], words[1].replace("\\040", " "), words[2], words[3].split(",")))
    return found


def mount_of(machine: Machine, path: str) -> tuple[str, str, list[str]]:
    """(folder, filesystem, options) of the mount that `path` is on."""
    best = ("/", "unknown", [""])
    for _, folder, kind, options in mounts(machine):
        if PurePosixPath(path).is_relative_to(folder) and len(folder) >= len(best[0]):
            best = (folder, kind, options)
    return best


def overlay(machine: Machine, settings: Settings) -> Finding:
    ok = "overlay" in (machine.read("/proc/filesystems") or "").split()
    detail = "in the kernel"
    if not ok:
        code, _ = machine.run("modprobe", "--dry-run", "overlay")
        ok, detail = code == 0, "a module that is loaded when needed" if code == 0 else "unknown to this kernel"
    return Finding(
        "overlay", ok, detail, "functions have no writable root of their own", "modprobe overlay", required=True
    )


def state_folder(machine: Machine, settings: Settings) -> Finding:
    existing = _existing(machine, settings)
    folder, kind, options = mount_of(machine, existing)
    get = "point QUILT_STATE_DIR at a folder on ext4, xfs or btrfs that is mounted without nodev and noexec"
    lost = "layers and images cannot be shown to a tenant as its own"
    where = f"{settings.state_dir} is on {kind} ({folder})"
    bad = [word for word in ("nodev", "noexec", "ro") if word in options]
    if bad:
        return Finding("state folder", False, f"{where}, mounted {','.join(bad)}", lost, get, required=True)
    if machine.uid() != 0:
        return Finding(
            "state folder", kind in IDMAP_FILESYSTEMS, f"{where}; not tried, that takes root", lost, get, required=True
        )
    reason = machine.idmap(existing)
    detail = f"{where}, id-mapped mounts work" if reason is None else f"{where}, id-mapped mounts fail: {reason}"
    return Finding("state folder", reason is None, detail, lost, get, required=True)


def disk(machine: Machine, settings: Settings) -> Finding:
    """Whether the disk of the state folder has the room that must stay free."""
    free_mb, reserve_mb = machine.free_mb(_existing(machine, settings)), settings.disk_reserve_mb
    known = "unknown" if free_mb is None else f"{free_mb} MB"
    return Finding(
        "disk",
        free_mb is not None and free_mb >= reserve_mb,
        f"{known} free below {settings.state_dir}; nothing new is taken with less than {reserve_mb} MB",
        "creates, deploys and uploads are answered 507 DISK_FULL; what runs goes on",
        "make room on that disk, or set QUILT_DISK_RESERVE_MB",
    )


def _existing(machine: Machine, settings: Settings) -> str:
    """The state folder, or where it is not made yet the nearest folder above it."""
    folder = PurePosixPath(settings.state_dir)
    while not machine.exists(str(folder)):
        folder = folder.parent
    return str(folder)


def seccomp(machine: Machine, settings: Settings) -> Finding:
    actions = (machine.read("/proc/sys/kernel/seccomp/actions_avail") or "").split()
    ok = "errno" in actions
    return Finding(
        "seccomp",
        ok,
        "filters are supported" if ok else "no filters in this kernel",
        "user code could make any system call, so none is run",
        NEW_KERNEL,
        required=True,
    )


def userfaultfd(machine: Machine, settings: Settings) -> Finding:
    ok = machine.exists("/proc/sys/vm/unprivileged_userfaultfd")
    return Finding(
        "userfaultfd",
        ok,
        "in the kernel" if ok else "not in this kernel",
        "restores cannot bring pages in when they are touched: big functions restore slower",
        NEW_KERNEL,
    )


def run_folder(machine: Machine, settings: Settings) -> Finding:
    _, kind, _ = mount_of(machine, "/run")
    return Finding(
        "/run",
        kind == "tmpfs",
        f"on {kind}",
        "CRIU probes the kernel at each run (about 25 ms); the spawner brings a /run of its own against that",
        "mount -t tmpfs tmpfs /run at boot, as systemd does",
    )
