"""Roots: an overlay of a writable layer on guest, bundle, layers and image, with /usr read-only on top. Three mounts
in all.

A root is built in the calling process's mount namespace (a child's private one), then handed on as a descriptor or
entered. Writable layers lie on disk below the state folder. `volatile` skips the sync of a layer that nobody will
mount again; containers of users do without it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.spawner import images, kernel, tenants
from runtime.spawner.names import Config, checked
from runtime.spawner.protocol import Refused

USR_KEY = "quilt-usr"
"""The name by which CRIU's images know the /usr mount."""


@dataclass(frozen=True, slots=True)
class Lowers:
    """What a root stands on: the tenant, ids of bundle and layer, and the folders below the store of image and
    guest.
    """

    tenant: str
    bundle: str
    layer: str | None
    image: str
    guest: str

    def to_json(self) -> dict[str, str | None]:
        return {"tenant": self.tenant, "bundle": self.bundle, "layer": self.layer, "image": self.image,
                "guest": self.guest}  # fmt: skip

    @classmethod
    def from_json(cls, raw: dict[str, str]) -> Lowers:
        return cls(raw["tenant"], raw["bundle"], raw["layer"], raw["image"], raw["guest"])


def lowers_of(config: Config, message: dict[str, object]) -> Lowers:
    """The Lowers that a request names, each checked to be there."""
    tenant = checked("tenant", message.get("tenant"))
    bundle = checked("bundle", message.get("bundle"))
    layer = checked("layer", message["layer"]) if message.get("layer") else None
    if not config.bundle(tenant, bundle).is_dir():
        raise Refused(f"bundle {bundle} is not unpacked", "absent")
    if layer and not config.layer(tenant, layer).is_dir():
        raise Refused(f"layer {layer} is not built", "absent")
    return Lowers(tenant, bundle, layer, images.host(config), images.guest(config))


def build(config: Config, lowers: Lowers, folder: Path, frozen: Path | None, target: Path,
          with_usr: bool = True) -> None:  # fmt: skip
    """Mount a function's root at `target`, as `mount`.

    `frozen`: a writable layer as it stood at a snapshot, which becomes the uppermost read-only one.
    """
    base = tenants.base_id(config, lowers.tenant)
    store = tenants.views(config, base)[0]
    stack = [frozen] if frozen else []
    stack.append(store / "bundles" / lowers.tenant / lowers.bundle)
    if lowers.layer:
        stack.append(store / "layers" / lowers.tenant / lowers.layer)
    stack += [store / lowers.guest, store / lowers.image]
    mount(config, base, stack, folder, target, with_usr=with_usr)


def mount(config: Config, base: int, stack: Sequence[Path], folder: Path, target: Path, *, with_usr: bool,
          lasting: bool = False) -> None:  # fmt: skip
    """Mount a new root at `target` on the read-only folders of `stack`, the uppermost first.

    Its writable layer lies in `folder` (made here, the tenant's root's); a `lasting` one is mounted again some day.
    """
    usr = tenants.views(config, base)[1]
    upper, work = folder / "upper", folder / "work"
    for path in (upper, work):
        path.mkdir(parents=True, exist_ok=True)
    os.chown(upper, base, base)
    upper.chmod(0o755)
    target.mkdir(parents=True, exist_ok=True)
    # nosuid: no_new_privs already makes set-user-id void; xattr-free options keep work dirs disposable.
    options = f"lowerdir={':'.join(map(str, stack))},upperdir={upper},workdir={work}{'' if lasting else ',volatile'}"
    if len(options) > 4000:
        raise Refused("the state folder's path is too long for an overlay's options; use a shorter QUILT_STATE_DIR")
    kernel.mount("quilt", str(target), "overlay", kernel.MS_NOSUID, options)
    if not with_usr:  # CRIU mounts it by itself, and can't take a root that something is mounted on
        return
    tree = kernel.open_tree(str(usr), kernel.OPEN_TREE_CLONE)
    # Import code may unmount its /usr and leave a link there: it must not lead this process anywhere.
    top = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kernel.move_mount(tree, "usr", top)
    except OSError as error:
        raise Refused(f"the files leave no folder for /usr: {error}", "failed") from None
    finally:
        os.close(top)
        os.close(tree)


def place(config: Config, name: str) -> Path:
    """Where the root of container or kit `name` is mounted: in a folder that the container's own ids can walk
    through.
    """
    return config.mounts / "roots" / name


def remove(config: Config, name: str) -> None:
    """Take the mount (if it is in this namespace) and its mount point away. Idempotent."""
    target = place(config, name)
    with contextlib.suppress(OSError):
        kernel.umount(str(target))
    with contextlib.suppress(FileNotFoundError):
        target.rmdir()


def private_namespace(config: Config, tenant: str) -> None:
    """Put the calling process into a mount namespace of its own, from which nothing gets out.

    The tenant's views are made before, where all later requests find them too.
    """
    tenants.views(config, tenants.base_id(config, tenant))
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
