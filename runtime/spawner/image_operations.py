"""What the node may ask about images: list them, build one, delete one.

Not here: what they are made of (`images`, `debian`), and which one a name means (`image_names`).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from runtime.spawner import debian, images, machines, trees
from runtime.spawner.context import Answer, Context, Message
from runtime.spawner.protocol import Refused


def listed(context: Context, message: Message, fds: list[int]) -> Answer:
    """→ {images: [{name, fingerprint, size_bytes, built_at}]}; what is not built has no fingerprint."""
    host = {"name": "host", "fingerprint": images.host_fingerprint(context.config), "size_bytes": None,
            "built_at": None}  # fmt: skip
    built = debian.read(context.config) or {}
    fields = {key: built.get(key) for key in ("fingerprint", "size_bytes", "built_at")}
    return {"images": [host, {"name": debian.NAME, **fields}]}, []


def build(context: Context, message: Message, fds: list[int]) -> Answer:
    """{name} → {fingerprint, size_bytes, built_at}; says progress."""
    _built_one(message)
    record = debian.build(context.config, context.groups, context.say)
    return {key: record[key] for key in ("fingerprint", "size_bytes", "built_at")}, []


def drop(context: Context, message: Message, fds: list[int]) -> Answer:
    """{name} → {}. Refused (details.users: how many) while containers stand on it, stopped ones too."""
    _built_one(message)
    config = context.config
    record = debian.read(config)
    if record is None:
        raise Refused("the image debian is not built", "absent")
    debian.forget(config)  # first, so that nobody new can come while the users are counted
    users = sum(meta["image"] == record["folder"] for _, meta in machines.there(config))
    if users:
        debian.restore(config, record)
        raise Refused("containers stand on the image debian; delete them first", "refused", {"users": users})
    folder = config.store / record["folder"]
    gone = folder.with_name(f".gone-{folder.name}-{os.getpid()}")
    folder.rename(gone)
    trees.remove(gone)
    return {}, []


def _built_one(message: Message) -> None:
    if message.get("name") != debian.NAME:
        raise Refused(f"no image that is built here: {message.get('name')!r}"[:200], "absent")


TABLE: dict[str, Callable[[Context, Message, list[int]], Answer]] = {
    "image_list": listed,
    "image_build": build,
    "image_drop": drop,
}
