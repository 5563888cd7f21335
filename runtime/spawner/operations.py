"""What the node may ask for: one function for each operation, each run in a child of its own. The table is at the end.

An operation takes the message and its descriptors and gives the answer and its descriptors. What it made before it
failed, it takes away again. Nothing here keeps state in memory: all of it is on disk and in the kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from typing import Any

from runtime.spawner import (
    checkpoint,
    disks,
    facts,
    image_operations,
    kernel,
    roots,
    sandbox,
    snapshots,
    store_operations,
    tenants,
    trees,
    volume_mounts,
    volumes,
)
from runtime.spawner.cgroups import Limits
from runtime.spawner.context import (
    Answer,
    Context,
    Message,
    claimed,
    in_child,
    limits_of,
    remove,
    same_process,
    started_at,
)
from runtime.spawner.names import checked, write_json
from runtime.spawner.protocol import Refused

KITS_AT_ONCE = 16
LISTEN_S = 30.0
"""Until a new template listens: an interpreter's start, which takes long where the machine is busy or emulated."""


class Operations(Context):
    """What the functions of users run in: containers of templates, their snapshots, kits."""

    # --- containers ---------------------------------------------------------------------------------------------

    def boot(self, message: Message, fds: list[int]) -> Answer:
        """{container, tenant, bundle, layer, memory_mb, cpu_percent, pids, network, caps, label} → {pid}, [control,
        pidfd, memory gauge].
        """
        ctr = checked("container", message.get("container"))
        lowers = roots.lowers_of(self.config, message)
        folder = claimed(self.config.container(ctr))
        try:
            network = self._furnish(ctr, lowers, limits_of(message), message, snapshot=None)
            root = roots.place(self.config, ctr)
            roots.private_namespace(self.config, lowers.tenant)
            roots.build(self.config, lowers, folder, None, root)
            base = tenants.base_id(self.config, lowers.tenant)
            inside = sandbox.template(self.config.python, bool(message.get("caps", True)))
            pid = sandbox.boot(root, base, network, self.groups, ctr, inside)
            return self._started(ctr, pid, base, LISTEN_S)
        except BaseException:
            self._clear(ctr)
            raise

    def restore(self, message: Message, fds: list[int]) -> Answer:
        """{container, snapshot, memory_mb, cpu_percent, pids, network, label} → {pid, ms}, [control, pidfd, memory
        gauge].
        """
        ctr = checked("container", message.get("container"))
        snp = checked("snapshot", message.get("snapshot"))
        about = snapshots.manifest(self.config, snp)
        lowers = roots.Lowers.from_json(about["lowers"])
        if about["facts"] != facts.facts(self.config):
            raise Refused(f"snapshot {snp} was taken on a machine or by a platform that was different", "failed")
        snapshots.verify(self.config, snp, about["files"])
        begun = time.monotonic()
        folder = claimed(self.config.container(ctr))
        try:
            network = self._furnish(ctr, lowers, limits_of(message), message, snapshot=snp)
            root = roots.place(self.config, ctr)
            roots.private_namespace(self.config, lowers.tenant)
            roots.build(self.config, lowers, folder, self.config.snapshot(snp) / "upper", root, with_usr=False)
            base = tenants.base_id(self.config, lowers.tenant)
            usr = tenants.views(self.config, base)[1]
            furnished = time.monotonic()
            images = self.config.snapshot(snp) / "images"
            pid = checkpoint.restore(self.config, images, root, usr, network, self.groups, ctr)
            restored = time.monotonic()
            answer, out = self._started(ctr, pid, base, LISTEN_S)
            answer["ms"] = {"furnish": (furnished - begun) * 1e3, "criu": (restored - furnished) * 1e3}
            return answer, out
        except BaseException:
            self._clear(ctr)
            raise

    def snapshot(self, message: Message, fds: list[int]) -> Answer:
        """{container, snapshot, dump} → {size_bytes, ms}, [control]. Nobody may be connected to the container.

        With dump false only the writable layer is kept as it stands, for kits: the container can't be restored from it.
        """
        ctr = checked("container", message.get("container"))
        snp = checked("snapshot", message.get("snapshot"))
        meta = self._meta(ctr)
        if meta["snapshot"]:
            raise Refused(f"container {ctr} was restored: its files in {meta['snapshot']} would be lost")
        begun = time.monotonic()
        temporary = self.config.state / "snapshots" / f".{snp}.{os.getpid()}"
        try:
            images = temporary / "images"
            images.mkdir(parents=True)
            if message.get("dump", True):
                in_child(lambda: checkpoint.dump(self.config, meta["pid"], images))
            trees.copy(self.config.container(ctr) / "upper", temporary / "upper")
            about = {
                "lowers": meta["lowers"],
                "facts": facts.facts(self.config),
                "dump": bool(message.get("dump", True)),
            }
            size = snapshots.finish(self.config, snp, temporary, about)
        except OSError as error:
            raise Refused(f"the snapshot could not be kept: {error}", "failed") from None
        finally:
            trees.remove(temporary)
        base = tenants.base_id(self.config, meta["lowers"]["tenant"])
        sock = sandbox.connect(meta["pid"], sandbox.TEMPLATE_ADDRESS, base, 5.0)
        return {"size_bytes": size, "ms": (time.monotonic() - begun) * 1e3}, [sock.detach()]

    def connect(self, message: Message, fds: list[int]) -> Answer:
        """{container} → {pid}, [control, pidfd, memory gauge]: adopt a container that runs."""
        ctr = checked("container", message.get("container"))
        meta = self._meta(ctr)
        base = tenants.base_id(self.config, meta["lowers"]["tenant"])
        sock = sandbox.connect(meta["pid"], sandbox.TEMPLATE_ADDRESS, base, 2.0)
        return {"pid": meta["pid"]}, [sock.detach(), kernel.pidfd_open(meta["pid"]), self.groups.memory_gauge(ctr)]

    def delete(self, message: Message, fds: list[int]) -> Answer:
        """{container} → {oom_kills}. Idempotent."""
        ctr = checked("container", message.get("container"))
        kills = self.groups.oom_kills(ctr)
        self._clear(ctr)
        return {"oom_kills": kills}, []

    def containers(self, message: Message, fds: list[int]) -> Answer:
        """→ {containers: [{container, label, alive}]}."""
        found = []
        folder = self.config.state / "containers"
        for path in sorted(folder.iterdir()) if folder.exists() else []:
            with contextlib.suppress(FileNotFoundError, ValueError):
                meta = json.loads((path / "meta.json").read_text())
                found.append({"container": path.name, "label": meta["label"], "alive": same_process(meta)})
        return {"containers": found}, []

    # --- kits: an instance's root and cgroup, made ahead ----------------------------------------------------------

    def kits(self, message: Message, fds: list[int]) -> Answer:
        """{kits: [ids], snapshot, memory_mb, cpu_percent, pids, volumes: [[id, target, read only]]} → {doors: n}, for
        each kit [root, memory gauge, doors…].

        A kit stands on the writable layer of `snapshot` as it was frozen.
        """
        wanted = message.get("kits")
        if not isinstance(wanted, list) or not 0 < len(wanted) <= KITS_AT_ONCE:
            raise Refused(f"kits must be a list of 1 to {KITS_AT_ONCE} ids")
        names = [checked("kit", kit) for kit in wanted]
        snp = checked("snapshot", message.get("snapshot"))
        limits = limits_of(message)
        lowers = roots.Lowers.from_json(snapshots.manifest(self.config, snp)["lowers"])
        frozen = self.config.snapshot(snp) / "upper"
        attached = volume_mounts.checked_list(message.get("volumes", []))
        trees = [volume_mounts.trees(self.config, lowers.tenant, attached) for _ in names]
        roots.private_namespace(self.config, lowers.tenant)
        out: list[int] = []
        doors: list[int] = []
        made: list[str] = []
        try:
            for kit, volume_trees in zip(names, trees, strict=True):
                folder = claimed(self.config.kit(kit))
                made.append(kit)
                root = roots.place(self.config, kit)
                roots.build(self.config, lowers, folder, frozen, root)
                volume_mounts.mount(self.config, lowers.tenant, volume_trees, root)
                volume_mounts.close(volume_trees)
                self.groups.make(kit, limits)
                doors = self.groups.doors(kit)
                tree = kernel.open_tree(str(root), kernel.OPEN_TREE_CLONE | kernel.AT_RECURSIVE)
                out += [tree, self.groups.memory_gauge(kit), *doors]
            return {"doors": len(doors)}, out
        except BaseException:
            for kit in made:
                self._clear_kit(kit)
            raise

    def end(self, message: Message, fds: list[int]) -> Answer:
        """{kit} → {oom_kills}: kill what runs in the kit and take it away. Idempotent."""
        kit = checked("kit", message.get("kit"))
        self.groups.kill(kit)
        kills = self.groups.oom_kills(kit)
        self._clear_kit(kit)
        return {"oom_kills": kills}, []

    def kill(self, message: Message, fds: list[int]) -> Answer:
        """{kit} or {container} → {oom_kills}: kill what runs in it; the rest stays."""
        name = checked("kit", message["kit"]) if "kit" in message else checked("container", message.get("container"))
        self.groups.kill(name)
        return {"oom_kills": self.groups.oom_kills(name)}, []

    # --- this machine ---------------------------------------------------------------------------------------------

    def facts(self, message: Message, fds: list[int]) -> Answer:
        """→ {facts: {…}, missing: {name: reason}}."""
        missing = {}
        if not self.config.criu:
            missing["criu"] = "no CRIU is installed that runs: instances are booted or forked, never restored"
        containers = self.networks.containers
        reasons = (self.networks.reason, containers.reason, containers.egress_reason)
        if any(reasons):
            missing["network"] = "; ".join(reason for reason in reasons if reason)
        if disks.missing():
            missing["volume_limits"] = disks.missing()
        if unlimited := self.groups.swap_unlimited():
            missing["swap_limit"] = unlimited
        return {"facts": facts.facts(self.config), "cgroup": "v2" if self.groups.v2 else "v1", "missing": missing}, []

    # --- shared ---------------------------------------------------------------------------------------------------

    def _furnish(self, ctr: str, lowers: roots.Lowers, limits: Limits, message: Message, snapshot: str | None) -> int:
        """Folder, record, cgroup and network of a container to come; the network's descriptor."""
        kind = message.get("network", "egress")
        if kind not in ("egress", "none"):
            raise Refused("network must be egress or none")
        label = message.get("label", "")
        if not isinstance(label, str) or len(label) > 300:
            raise Refused("label must be a text of at most 300 characters")
        write_json(
            self.config.container(ctr) / "meta.json",
            {"lowers": lowers.to_json(), "snapshot": snapshot, "label": label, "pid": 0, "started": ""},
        )
        self.groups.make(ctr, limits)
        return self.networks.take(kind)

    def _started(self, ctr: str, pid: int, base: int, timeout_s: float) -> Answer:
        meta_path = self.config.container(ctr) / "meta.json"
        meta = json.loads(meta_path.read_text())
        write_json(meta_path, {**meta, "pid": pid, "started": started_at(pid)})
        pidfd = kernel.pidfd_open(pid)
        sock = sandbox.connect(pid, sandbox.TEMPLATE_ADDRESS, base, timeout_s)
        return {"pid": pid}, [sock.detach(), pidfd, self.groups.memory_gauge(ctr)]

    def _meta(self, ctr: str) -> dict[str, Any]:
        try:
            meta: dict[str, Any] = json.loads((self.config.container(ctr) / "meta.json").read_text())
        except FileNotFoundError:
            raise Refused(f"there is no container {ctr}", "absent") from None
        if not same_process(meta):
            raise Refused(f"container {ctr} does not run any more", "absent")
        return meta

    def _clear(self, ctr: str) -> None:
        self.groups.remove(ctr)
        roots.remove(self.config, ctr)
        remove(self.config.container(ctr))

    def _clear_kit(self, kit: str) -> None:
        self.groups.remove(kit)
        roots.remove(self.config, kit)
        remove(self.config.kit(kit))


TABLE: dict[str, Callable[[Operations, Message, list[int]], Answer]] = {
    "boot": Operations.boot,
    "restore": Operations.restore,
    "snapshot": Operations.snapshot,
    "connect": Operations.connect,
    "delete": Operations.delete,
    "containers": Operations.containers,
    "kits": Operations.kits,
    "end": Operations.end,
    "kill": Operations.kill,
    "facts": Operations.facts,
    **store_operations.TABLE,
    **volumes.TABLE,
    **image_operations.TABLE,
}
