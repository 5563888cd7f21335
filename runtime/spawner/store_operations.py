"""What the node may ask for about what is stored for functions: bundles, layers, snapshots. The table is at the end.

Not here: how they are made (`bundles`, `layers`, `checkpoint`), and what runs on them (`operations`).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable

from runtime.spawner import bundles, layers, snapshots, trees
from runtime.spawner.context import Answer, Context, Message
from runtime.spawner.names import checked
from runtime.spawner.protocol import Refused

PAGE = 200
"""Of each kind in one answer, which has to fit a message; what is left over goes at the node's next start."""


def unpack(ops: Context, message: Message, fds: list[int]) -> Answer:
    """{tenant, bundle}, [archive] → {}."""
    if len(fds) != 1:
        raise Refused("unpack takes one descriptor")
    if not stat.S_ISREG(os.fstat(fds[0]).st_mode):  # a pipe would hold this process for ever
        raise Refused("unpack takes a regular file")
    bundles.unpack(
        ops.config, checked("tenant", message.get("tenant")), checked("bundle", message.get("bundle")), fds[0]
    )
    return {}, []


def layer(ops: Context, message: Message, fds: list[int]) -> Answer:
    """{tenant, layer, requirements: [text]} → {size_bytes}; says progress."""
    requirements = message.get("requirements")
    if not isinstance(requirements, list):
        raise Refused("requirements must be a list")
    for line in requirements:
        if not _is_requirement(line):
            raise Refused(f"the requirement {str(line)[:256]!r} must name a package of the index, such as "
                          "`pillow>=11`: no option, path, URL or variable", "build")  # fmt: skip
    size = layers.build(ops.config, ops.groups, checked("tenant", message.get("tenant")),
                        checked("layer", message.get("layer")), requirements, ops.say)  # fmt: skip
    return {"size_bytes": size}, []


def forget(ops: Context, message: Message, fds: list[int]) -> Answer:
    """{snapshot} or {tenant, bundle} or {tenant, layer} → {}. Idempotent."""
    if "snapshot" in message:
        snapshots.delete(ops.config, checked("snapshot", message["snapshot"]))
        return {}, []
    tenant = checked("tenant", message.get("tenant"))
    if "bundle" in message:
        target = ops.config.bundle(tenant, checked("bundle", message["bundle"]))
    else:
        target = ops.config.layer(tenant, checked("layer", message.get("layer")))
    if target.exists():
        gone = target.with_name(f".gone-{target.name}-{os.getpid()}")
        target.rename(gone)
        trees.remove(gone)
    return {}, []


def stored(ops: Context, message: Message, fds: list[int]) -> Answer:
    """→ {snapshots: [ids], bundles: [[tenant, id]], layers: [[tenant, id]]}: what is kept on disk, at most 200 of
    each.
    """
    store = ops.config.store
    snapshots_there = [p.name for p in (ops.config.state / "snapshots").glob("snp_*")][:PAGE]
    bundles_there = [[p.parent.name, p.name] for p in (store / "bundles").glob("*/[0-9a-f]*")][:PAGE]
    layers_there = [[p.parent.name, p.name] for p in (store / "layers").glob("*/lyr_*")][:PAGE]
    return {"snapshots": snapshots_there, "bundles": bundles_there, "layers": layers_there}, []


def about(ops: Context, message: Message, fds: list[int]) -> Answer:
    """{snapshot} → {size_bytes, taken_at, dump}."""
    found = snapshots.manifest(ops.config, checked("snapshot", message.get("snapshot")))
    return {"size_bytes": found["size_bytes"], "taken_at": found["taken_at"], "dump": found["dump"]}, []


# uv runs in this machine's network and reads its files as the builder, and puts our environment in where ${NAME}
# stands.
# `http:host` is a URL to it too, so a colon stands in a hash only; and a line break would begin a line of options.
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*[ \t]*(\[[A-Za-z0-9._, \t-]*\])?[^@/\\$:\x00-\x08\x0a-\x1f\x7f-\xa0\u2028\u2029]*"
    r"([ \t]--hash=[a-z0-9]+:[0-9a-f]+)*[ \t]*"
)


def _is_requirement(line: object) -> bool:
    return isinstance(line, str) and len(line) <= 256 and _REQUIREMENT.fullmatch(line) is not None


TABLE: dict[str, Callable[[Context, Message, list[int]], Answer]] = {
    "unpack": unpack,
    "layer": layer,
    "forget": forget,
    "stored": stored,
    "about": about,
}
