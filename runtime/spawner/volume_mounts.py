"""Volumes in a root that was just built: each mounted by descriptor beneath it, nosuid and nodev, read-only on request.

The root's writable layer is the tenant's, so whatever lies at a target may be a trap: no link is followed, and nothing
but the root's own overlay is gone through. Not here: which volumes, and whose.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path, PurePosixPath

from runtime.spawner import kernel, tenants, volumes
from runtime.spawner.names import Config, checked
from runtime.spawner.protocol import Refused

AT_MOST = 32
REFUSED = ("/", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/opt", "/fn")
REFUSED_WITH_ALL_BELOW = ("/etc", "/proc", "/dev", "/sys", "/opt/quilt")

Attached = tuple[str, str, bool]


def checked_list(wanted: object) -> list[Attached]:
    """[[volume, target, read only]] of a message. Raises Refused."""
    if not isinstance(wanted, list) or len(wanted) > AT_MOST:
        raise Refused(f"volumes must be a list of at most {AT_MOST}")
    found = []
    for each in wanted:
        if not isinstance(each, list) or len(each) != 3 or not isinstance(each[2], bool):
            raise Refused("a volume is attached by [id, target, read only]")
        found.append((checked("volume", each[0]), _target(each[1]), each[2]))
    return found


def refused_for(target: str) -> str | None:
    """Why nothing may be mounted at the plain absolute path `target`; None where it may."""
    for top in REFUSED_WITH_ALL_BELOW:
        if target == top or target.startswith(top + "/"):
            return f"{top} and what lies below it belongs to the platform"
    return f"{target} belongs to the platform" if target in REFUSED else None


def _target(target: object) -> str:
    if not isinstance(target, str) or not target.startswith("/") or "\0" in target or len(target) > 4096:
        raise Refused(f"not a target: {target!r}"[:200])
    # Of pure paths, "//etc" is another than "/etc"; to the kernel it is the same.
    plain = not target.startswith("//") and str(PurePosixPath(target)) == target
    if not plain or ".." in PurePosixPath(target).parts or refused_for(target):
        raise Refused(f"nothing can be mounted at {target!r}"[:200])
    return target


def trees(config: Config, tenant: str, wanted: list[Attached]) -> list[tuple[int, str]]:
    """(detached mount, target) of each. Mounts what has to be mounted for it in the spawner's own namespace, so the
    caller must not have left that.
    """
    found: list[tuple[int, str]] = []
    try:
        for volume, target, read_only in wanted:
            data = volumes.place(config, tenant, volume) / "data"
            tree = kernel.open_tree(str(data), kernel.OPEN_TREE_CLONE)
            found.append((tree, target))
            flags = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
            kernel.mount_setattr(tree, flags | (kernel.MOUNT_ATTR_RDONLY if read_only else 0))
        return found
    except BaseException:
        close(found)
        raise


def close(found: list[tuple[int, str]]) -> None:
    for tree, _ in found:
        os.close(tree)


def mount(config: Config, tenant: str, found: list[tuple[int, str]], root: Path) -> None:
    """Mount each in the root at `root`, whose folders on the way are made where they are missing, as the tenant's
    root's. Raises Refused where a link or something else than a folder lies in the way.
    """
    base = tenants.base_id(config, tenant)
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for tree, target in found:
            folder = _folder(top, target, base)
            try:
                kernel.move_mount_onto(tree, folder)
            finally:
                os.close(folder)
    finally:
        os.close(top)


def _folder(top: int, target: str, base: int) -> int:
    fd = os.dup(top)
    try:
        for part in PurePosixPath(target).parts[1:]:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=fd)
                os.chown(part, base, base, dir_fd=fd, follow_symlinks=False)
            below = kernel.open_beneath(
                fd, part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, kernel.RESOLVE_NO_SYMLINKS
            )
            os.close(fd)
            fd = below
        return fd
    except OSError as error:
        os.close(fd)
        link, mount = "a file or a link lies in the way", "it lies in a mount of the platform"
        why = {errno.ELOOP: link, errno.ENOTDIR: link, errno.EXDEV: mount, errno.EROFS: mount}
        raise Refused(
            f"no volume can be mounted at {target!r}: {why.get(error.errno or 0, error.strerror)}", "refused",
            {"what": "target"},
        ) from None  # fmt: skip
