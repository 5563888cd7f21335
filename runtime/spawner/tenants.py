"""Each tenant's range of 65,536 user and group ids, and the read-only views of store and /usr that show root's files
as its own.

Ranges start at 2^30, beyond what /etc/subuid gives out, and are claimed for the whole machine in /var/lib/quilt-ids,
so that two platforms never use the same one. A range is a tenant's for as long as the state folder exists.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from runtime.spawner import kernel
from runtime.spawner.names import Config, write_json

BASE_ID = 1 << 30
RANGE = 65_536
SLOTS = 40_000
CLAIMS = Path("/var/lib/quilt-ids")
BUILDER = 65_533
"""The id, within a tenant's range, that unpacks bundles and installs layers. Nothing in a container runs as it."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def base_id(config: Config, tenant: str) -> int:
    """The first id of the tenant's range; claims one at the first call."""
    table = config.state / "tenants.json"
    with locked(config.state / "tenants.lock"):
        slots: dict[str, int] = json.loads(table.read_text()) if table.exists() else {}
        if tenant not in slots:
            slots[tenant] = _claim(config)
            write_json(table, slots)
        return BASE_ID + slots[tenant] * RANGE


def _claim(config: Config) -> int:
    with locked(CLAIMS / "lock"):
        for slot in range(SLOTS):
            claim = CLAIMS / str(slot)
            with contextlib.suppress(FileNotFoundError):
                holder = claim.read_text()
                if Path(holder).exists():
                    continue
            claim.write_text(str(config.state))
            return slot
    raise RuntimeError(f"all {SLOTS} id ranges of this machine are claimed; see {CLAIMS}")


def user_namespace(base: int) -> int:
    """A descriptor of a new user namespace whose ids 0… are `base`…: the template of an id map."""
    ready_r, ready_w = os.pipe()
    done_r, done_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(done_w)
            kernel.unshare(kernel.CLONE_NEWUSER)
            os.write(ready_w, b"1")
            os.read(done_r, 1)
        finally:
            os._exit(0)
    os.close(ready_w)
    os.close(done_r)
    try:
        if not os.read(ready_r, 1):
            raise RuntimeError("no user namespace can be made here; see `quilt doctor`")
        write_maps(pid, base)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready_r)
        os.close(done_w)
        os.waitpid(pid, 0)


def write_maps(pid: int, base: int) -> None:
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{name}").write_text(f"0 {base} {RANGE}\n")


def views(config: Config, base: int) -> tuple[Path, Path]:
    """(store, usr): read-only mount points in the spawner's namespace. In the store, root's files are the tenant's
    root's.

    /usr is this machine's own, and a container gets the mount itself: there root's files stay root's, whom no container
    has an id for, so that nothing but what everybody may do can be done with them, whatever becomes of the mount's
    flags.
    """
    folder = config.mounts / f"ids-{base}"
    store, usr = folder / "store", folder / "usr"
    with locked(config.run / "mounts.lock"):
        if not (folder / "ready").exists():
            folder.mkdir(parents=True, exist_ok=True)
            namespace = user_namespace(base)
            try:
                for source, target, recursive in ((config.store, store, False), (Path("/usr"), usr, False)):
                    target.mkdir(exist_ok=True)
                    tree = kernel.open_tree(str(source), kernel.OPEN_TREE_CLONE)
                    attributes = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID
                    if source == config.store:
                        kernel.mount_setattr(tree, attributes | kernel.MOUNT_ATTR_IDMAP, namespace, recursive)
                    else:
                        kernel.mount_setattr(tree, attributes | kernel.MOUNT_ATTR_NODEV, 0, recursive)
                    kernel.move_mount(tree, str(target))
                    os.close(tree)
            finally:
                os.close(namespace)
            (folder / "ready").touch()
    return store, usr
