"""What a platform has of the kernel and on disk, counted, so that a test can see that nothing was left.

Not here: waiting until two counts are the same (`conftest`).
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from tests.integration.live import Live

CGROUPS = Path("/sys/fs/cgroup")
DEAD_CONNECTIONS = 3
RECEIPTS = ("quilt:{operations:", "quilt:{replays:", "quilt:container-tenants", "quilt:volume-tenants")
"""Keys that are meant to stay: receipts of operations, answers of idempotency keys, and which tenants had what."""


def parents() -> dict[int, int]:
    """pid → parent of every process of the machine."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def processes(live: Live) -> set[int]:
    """The supervisor's descendants, and whatever stands in a cgroup of the platform."""
    assert live.process is not None
    tree = parents()
    found = {live.process.pid}
    while more := {pid for pid, parent in tree.items() if parent in found} - found:
        found |= more
    for group in groups(live):
        found |= {int(pid) for pid in _read(group / "cgroup.procs").split()}
    return found


def groups(live: Live) -> list[Path]:
    name = f"quilt-{live.settings.platform}"
    return [p for base in (CGROUPS / name, *CGROUPS.glob(f"*/{name}")) for p in (base, *base.glob("*")) if p.is_dir()]


SMALL_DISKS = "/var/tmp/quilt-small-"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _mounts(pid: int) -> Counter[str]:
    """Mount points; those of waiting network namespaces, whose names are made up, by their folder. Without the disks
    that tests mount for platforms of their own, beside this one.
    """
    points = [line.split()[4] for line in _read(Path(f"/proc/{pid}/mountinfo")).splitlines()]
    points = [point for point in points if not point.startswith(SMALL_DISKS)]
    # A tenant's two views are made once for each spawner, at the first need.
    return Counter(str(Path(p).parent) + "/*" if "/netns/" in p else p for p in points if "/mnt/ids-" not in p)


def _descriptors(pid: int) -> Counter[str]:
    """Open files by kind: sockets and pipes without their numbers."""
    found: Counter[str] = Counter()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[str(path.readlink()).split(":")[0]] += 1
        except FileNotFoundError:
            continue
    return found


def _redis_connections(run: Path) -> int:
    """How many there are: Redis' ends carry its address, and so does the socket that listens."""
    return len([line for line in _read(Path("/proc/net/unix")).splitlines() if f"{run}/redis" in line]) - 1


def take(live: Live) -> dict[str, object]:
    """Everything that is counted. Two censuses are the same where nothing was left."""
    run, root = live.settings.run_path, live.root_dir
    spawner, node = live.pid("spawner"), live.pid("node")
    names = [_read(Path(f"/proc/{pid}/comm")).strip() for pid in processes(live)]
    tag = f"q{live.settings.platform[:8]}"
    namespaces = set()
    for pid in processes(live):
        try:
            namespaces.add(Path(f"/proc/{pid}/ns/net").readlink())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return {
        "processes": Counter(names),
        "mounts of the machine": Counter(m for m in _mounts(os.getpid()).elements() if str(run) in m or str(root) in m),
        "mounts of the spawner": _mounts(spawner),
        "mounts of the node": _mounts(node),
        "cgroups": sorted(str(g.relative_to(CGROUPS)) for g in groups(live)),
        "links": len(list(Path("/sys/class/net").glob(f"{tag}*"))),
        "links of containers": len(list(Path("/sys/class/net").glob(f"qn{tag[1:]}*"))),
        "addresses of containers": len(list((root / "network" / "numbers").glob("*"))),
        "network namespaces": len(namespaces),
        "sockets": Counter(
            line.split()[-1] for line in _read(Path("/proc/net/unix")).splitlines() if f"{run}/spawner" in line
        ),
        "descriptors of the spawner": _descriptors(spawner),
        # The node's connections to Redis are a bounded pool, which grows when many are needed at once.
        "descriptors of the node": _descriptors(node) - Counter(socket=_redis_connections(run)),
        "folders": {
            kind: sorted(p.name for p in (root / kind).glob("*")) for kind in ("containers", "kits", "snapshots")
        } | {"bundles": sorted(p.name for p in (root / "store" / "bundles").glob("*/*"))}
        | {"roots": sorted(p.name for p in (run / "mnt" / "roots").glob("*"))},
        "run folder": sorted(
            p.name for p in run.iterdir() if p.is_dir() or p.is_socket() or p.name.startswith(("criu", "restored"))
        ),
        "volumes": sorted(p.name for p in (root / "volumes").glob("*/*")),
        "keys": sorted(key for key in live.redis("KEYS", "*").split() if not key.startswith(RECEIPTS)),
    }  # fmt: skip


def difference(before: dict[str, object], after: dict[str, object]) -> dict[str, tuple[object, object]]:
    return {name: (value, after[name]) for name, value in before.items() if value != after[name]}


def more(before: dict[str, object], after: dict[str, object]) -> dict[str, object]:
    """What there is now and was not before. After a process was killed there may be less: what waited in stock, say."""
    found = {name: _more(value, after[name]) for name, value in before.items()}
    node = found.get("descriptors of the node")
    if isinstance(node, Counter):  # connections to a Redis that was killed are closed when they are next taken
        found["descriptors of the node"] = node - Counter(socket=DEAD_CONNECTIONS)
    return {name: value for name, value in found.items() if value}


def _more(before: object, after: object) -> object:
    if isinstance(before, dict) and not isinstance(before, Counter):
        assert isinstance(after, dict)
        return more(before, after)
    if isinstance(before, int):
        assert isinstance(after, int)
        return max(0, after - before)
    return Counter(after) - Counter(before)  # type: ignore[call-overload]
