"""What the node may ask for containers of users: machines whose writable layer outlives their processes.

A machine's folder holds its writable layer and meta.json, which says whose it is and what runs. Starting, stopping and
looking at it is here; what is run in it is asked of its own init, over the connection that `start` and `rejoin` give.
Not here: templates, whose containers end for good (`operations`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from runtime.spawner import (
    container_archives,
    image_names,
    images,
    jail,
    kernel,
    processes,
    roots,
    sandbox,
    staging,
    tenants,
    volume_mounts,
)
from runtime.spawner.cgroups import Cgroups, Limits
from runtime.spawner.context import Answer, Context, Message, limits_of, remove, same_process, started_at
from runtime.spawner.images import GUEST
from runtime.spawner.names import Config, checked, write_json
from runtime.spawner.protocol import Refused

INIT_ADDRESS = "\0quilt-init"
CONNECT_S = 5.0
END_GRACE_S = 3.0
PAGE = 200
PAGE_BYTES = 48 * 1024
"""Of a list whose entries a container's processes have a hand in."""
_HOSTNAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class Machines(Context):
    """The operations on containers of users."""

    def start(self, message: Message, fds: list[int]) -> Answer:
        """{container, tenant, image, hostname, memory_mb, cpu_percent, pids, network: bridge|none, strict,
        volumes: [[id, target, read only]]} → {pid, address}, [init's connection, pidfd, memory events]. The writable
        layer is made at the first start.
        """
        ctr = checked("container", message.get("container"))
        tenant = checked("tenant", message.get("tenant"))
        hostname = message.get("hostname")
        if not isinstance(hostname, str) or not _HOSTNAME.fullmatch(hostname):
            raise Refused(f"not a host name: {hostname!r}"[:200])
        network = message.get("network")
        if network not in ("bridge", "none"):
            raise Refused("network must be bridge or none")
        attached = volume_mounts.checked_list(message.get("volumes", []))
        limits = limits_of(message)
        with alone(self.config, ctr):
            meta = read_meta(self.config, ctr)
            image = image_names.named(self.config, message.get("image"), meta["image"] if meta else None)
            if meta and (meta["tenant"] != tenant or same_process(meta)):
                raise Refused(f"container {ctr} runs already, or is another tenant's")
            return self._start(ctr, tenant, hostname, network, attached, limits, image, bool(message.get("strict")))

    def _start(
        self, ctr: str, tenant: str, hostname: str, network: str, attached: list[volume_mounts.Attached],
        limits: Limits, image: image_names.Image, strict: bool,
    ) -> Answer:  # fmt: skip
        folder = self.config.machine(ctr)
        folder.mkdir(parents=True, exist_ok=True)
        staging.sweep(folder / "upper")
        base = tenants.base_id(self.config, tenant)
        try:
            guest = images.guest(self.config)
            about = {"tenant": tenant, "image": image.folder, "guest": guest, "hostname": hostname, "pid": 0,
                     "started": ""}  # fmt: skip
            write_json(folder / "meta.json", about)
            image_names.still_there(self.config, image)
            self.groups.make(ctr, limits, freezer=True)
            if network == "bridge":
                namespace, address = self.networks.containers.attach(ctr, tenant)
            else:
                namespace, address = self.networks.take("none"), None
            root = roots.place(self.config, ctr)
            trees = volume_mounts.trees(self.config, tenant, attached)
            roots.private_namespace(self.config, tenant)
            store = tenants.views(self.config, base)[0]
            roots.mount(self.config, base, [store / guest, store / image.folder], folder, root,
                        with_usr=image.borrows_usr, lasting=True)  # fmt: skip
            volume_mounts.mount(self.config, tenant, trees, root)
            volume_mounts.close(trees)
            inside = sandbox.Inside(
                init=os.open(store / guest / GUEST.lstrip("/") / "quilt-init", os.O_RDONLY | os.O_CLOEXEC),
                arguments=("serve", "--strict") if strict else ("serve",),
                hostname=hostname, terminals=True, address=address,
                nameserver=self.networks.containers.gateway if address else None,
            )  # fmt: skip
            pid = sandbox.boot(root, base, namespace, self.groups, ctr, inside)
            write_json(folder / "meta.json", {**about, "pid": pid, "started": started_at(pid), "address": address})
            return self._spoken_to(ctr, pid, base, address)
        except BaseException:
            self._halt(ctr)
            raise

    def rejoin(self, message: Message, fds: list[int]) -> Answer:
        """{container, tenant} → as `start`, for one that runs."""
        ctr, meta = self._running(message)
        if meta["tenant"] != message.get("tenant"):
            raise Refused(f"there is no container {ctr}", "absent")
        base = tenants.base_id(self.config, meta["tenant"])
        return self._spoken_to(ctr, meta["pid"], base, meta["address"])

    def halt(self, message: Message, fds: list[int]) -> Answer:
        """{container} → {oom_kills, ran}: kill all of it; cgroup, mounts and network go, the writable layer stays.
        `ran`: whether there was anything to end since the spawner or the machine came up. Idempotent.
        """
        ctr = checked("container", message.get("container"))
        with alone(self.config, ctr):
            noted = (read_meta(self.config, ctr) or {}).get("oom_kills")
            kills, ran = noted or self.groups.oom_kills(ctr), noted is not None or self.groups.there(ctr)
            self._halt(ctr)
        return {"oom_kills": kills, "ran": ran}, []

    def remove(self, message: Message, fds: list[int]) -> Answer:
        """{container} → {}: kill all of it, and remove its writable layer. Idempotent."""
        ctr = checked("container", message.get("container"))
        folder = self.config.machine(ctr)
        # Renamed first: half a layer must never be started again.
        gone = folder.with_name(f".gone-{ctr}-{os.getpid()}")
        with alone(self.config, ctr):
            self._halt(ctr)
            self.networks.containers.forget(ctr)
            if folder.exists():
                folder.rename(gone)
        for left in folder.parent.glob(f".gone-{ctr}-*"):  # this one, and that of a remove which was killed
            remove(left)
        return {}, []

    def freeze(self, message: Message, fds: list[int]) -> Answer:
        """{container} → {}: nothing in it runs any more, until `thaw`."""
        self.groups.freeze(self._running(message)[0], True)
        return {}, []

    def thaw(self, message: Message, fds: list[int]) -> Answer:
        """{container} → {}."""
        self.groups.freeze(self._running(message)[0], False)
        return {}, []

    def resize(self, message: Message, fds: list[int]) -> Answer:
        """{container, memory_mb, cpu_percent, pids} → {}: other limits, in force when this answers."""
        ctr, _ = self._running(message)
        limits = limits_of(message)
        used = int(self.groups.usage(ctr)["memory_bytes"])
        if limits.memory_mb << 20 < used:
            says = f"the container uses {used >> 20} MB, so its memory can't be limited to {limits.memory_mb} MB"
            raise Refused(says, "refused", {"memory_bytes": used})
        self.groups.make(ctr, limits, freezer=True)
        return {}, []

    def usage(self, message: Message, fds: list[int]) -> Answer:
        """{container} → {memory_bytes, memory_peak_bytes, cpu_seconds, pids, oom_kills}."""
        ctr, _ = self._running(message)
        return self.groups.usage(ctr), []

    def processes(self, message: Message, fds: list[int]) -> Answer:
        """{container, after} → {processes: [{pid, ppid, user, state, command, memory_bytes, started_ticks}], last}.

        As many as fit an answer, by the container's own pids and user ids, in the order of this machine's pids, of
        which `last` is where the next page begins; 0 at the end. No process is looked at twice.
        """
        ctr, meta = self._running(message)
        after = message.get("after", 0)
        if not isinstance(after, int):
            raise Refused("after must be a pid")
        base = tenants.base_id(self.config, meta["tenant"])
        page: list[dict[str, Any]] = []
        room, last = PAGE_BYTES, 0
        for pid in sorted(pid for pid in self.groups.processes(ctr) if pid > after):
            process = processes.look(pid, base)
            if process is not None:
                room -= len(json.dumps(process))
                if room < 0:
                    return {"processes": page, "last": last}, []
                page.append(process)
            last = pid
        return {"processes": page, "last": 0}, []

    def unpack_into(self, message: Message, fds: list[int]) -> Answer:
        """{container, path, strip}, [pipe, whether it is whole] → {entries, bytes}: a tar or tar.gz below `path` of one
        that runs.
        """
        return container_archives.unpack(self._namespaces(message), message, fds), []

    def pack_from(self, message: Message, fds: list[int]) -> Answer:
        """{container, path, zipped}, [pipe] → {entries}: what is at `path` of one that runs."""
        return container_archives.pack(self._namespaces(message), message, fds), []

    def machines(self, message: Message, fds: list[int]) -> Answer:
        """{after} → {machines: [{container, tenant, alive}], more}: in the order of their ids, at most 200."""
        after = message.get("after", "")
        metas = [(ctr, meta) for ctr, meta in there(self.config) if ctr > str(after)]
        found = [{"container": c, "tenant": m["tenant"], "alive": same_process(m)} for c, m in metas[:PAGE]]
        return {"machines": found, "more": len(metas) > PAGE}, []

    # --- shared ---------------------------------------------------------------------------------------------------

    def _running(self, message: Message) -> tuple[str, dict[str, Any]]:
        ctr = checked("container", message.get("container"))
        meta = read_meta(self.config, ctr)
        if not meta or not same_process(meta):
            raise Refused(f"container {ctr} does not run", "absent")
        return ctr, meta

    def _namespaces(self, message: Message) -> container_archives.Namespaces:
        """Of one that runs, also once they are open: its number may have become another process's in between."""
        ctr, meta = self._running(message)
        try:
            found = {
                kind: os.open(f"/proc/{meta['pid']}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in jail.ENTERED
            }
        except (FileNotFoundError, ProcessLookupError):
            raise Refused(f"container {ctr} does not run", "absent") from None
        self._running(message)
        return found

    def _spoken_to(self, ctr: str, pid: int, base: int, address: str | None) -> Answer:
        pidfd = kernel.pidfd_open(pid)
        sock = sandbox.connect(pid, INIT_ADDRESS, base, CONNECT_S)
        return {"pid": pid, "address": address}, [sock.detach(), pidfd, self.groups.memory_events(ctr)]

    def _halt(self, ctr: str) -> None:
        self.groups.freeze(ctr, False)  # on v1 what is frozen does not die
        self.groups.remove(ctr)
        self.networks.containers.release(ctr)
        roots.remove(self.config, ctr)


def read_meta(config: Config, ctr: str) -> dict[str, Any] | None:
    """What is known of a machine; None where there is none."""
    with contextlib.suppress(FileNotFoundError):
        found: dict[str, Any] = json.loads((config.machine(ctr) / "meta.json").read_text())
        return found
    return None


def there(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every machine with what is known of it, by id."""
    folder = config.state / "machines"
    for path in sorted(folder.iterdir()) if folder.exists() else []:
        meta = None if path.name.startswith(".") else read_meta(config, path.name)
        if meta:
            yield path.name, meta


def alive(config: Config) -> set[str]:
    """The machines that run."""
    return {ctr for ctr, meta in there(config) if same_process(meta)}


def sweep(config: Config, groups: Cgroups) -> None:
    """Remove what a delete had begun, and folders that a first start had only just made. Of one that has ended by
    itself it is noted why: its group goes next.
    """
    for ctr, meta in there(config):
        if groups.there(ctr) and not same_process(meta):
            write_json(config.machine(ctr) / "meta.json", {**meta, "oom_kills": groups.oom_kills(ctr)})
    folder = config.state / "machines"
    for path in folder.iterdir() if folder.exists() else []:
        if path.name.startswith(".") or not (path / "meta.json").exists():
            remove(path)


def end_all(config: Config, groups: Cgroups) -> None:
    """At the platform's end: SIGTERM to all that runs, a short while, then SIGKILL. Writable layers stay."""
    running = alive(config)
    for ctr in running:
        groups.freeze(ctr, False)
        groups.terminate(ctr, keep={meta["pid"] for meta in [read_meta(config, ctr)] if meta})
    deadline = time.monotonic() + END_GRACE_S
    while time.monotonic() < deadline and any(len(groups.processes(ctr)) > 1 for ctr in running):
        time.sleep(0.02)
    for ctr in running:
        groups.remove(ctr)


@contextlib.contextmanager
def alone(config: Config, ctr: str) -> Iterator[None]:
    """One change of a machine at a time, also where a request whose node or spawner has gone is still at it.

    A record lock: it belongs to this process alone, so that nothing which it starts can hold it any longer.
    """
    fd = os.open(config.state / "machines.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        place = int.from_bytes(hashlib.sha256(ctr.encode()).digest()[:7], "big")
        fcntl.lockf(fd, fcntl.LOCK_EX, 1, place)
        yield
    finally:
        os.close(fd)


TABLE: dict[str, Callable[[Machines, Message, list[int]], Answer]] = {
    "start": Machines.start,
    "rejoin": Machines.rejoin,
    "halt": Machines.halt,
    "remove": Machines.remove,
    "freeze": Machines.freeze,
    "thaw": Machines.thaw,
    "resize": Machines.resize,
    "usage": Machines.usage,
    "processes": Machines.processes,
    "unpack_into": Machines.unpack_into,
    "pack_from": Machines.pack_from,
    "machines": Machines.machines,
}
