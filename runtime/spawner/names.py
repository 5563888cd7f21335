"""Every id that comes in is checked here, and every path is derived here: the spawner takes no path from anyone.

All folders lie below the state folder's `root/`, which is root's and 0700, so nobody else can put a link there.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.spawner.protocol import Refused

_PATTERNS = {
    "container": re.compile(r"ctr_[0-9a-f]{20}"),
    "kit": re.compile(r"ins_[0-9a-f]{20}"),
    "snapshot": re.compile(r"snp_[0-9a-f]{32}"),
    "tenant": re.compile(r"[a-z0-9][a-z0-9_-]{0,62}"),
    "bundle": re.compile(r"[0-9a-f]{64}"),
    "volume": re.compile(r"vol_[0-9a-f]{20}"),
    "layer": re.compile(r"lyr_[0-9a-f]{32}"),
}


def checked(kind: str, value: object) -> str:
    """`value` as an id of `kind`. Raises Refused."""
    if not isinstance(value, str) or not _PATTERNS[kind].fullmatch(value):
        raise Refused(f"not an id of a {kind}: {value!r}"[:200])
    return value


def integer(message: dict[str, Any], name: str, low: int, high: int) -> int:
    value = message.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise Refused(f"{name} must be a whole number from {low} to {high}, not {value!r}"[:200])
    return value


@dataclass(frozen=True, slots=True)
class Config:
    """What the supervisor tells the spawner at its start, in a file that only root writes."""

    state: Path
    run: Path
    socket: Path
    platform: str
    node_uid: int
    node_gid: int
    criu: tuple[str, ...]
    init: Path
    instance_bpf: Path
    waiting: Path
    """What makes a CRIU wait: the library of criu/waiting.c."""
    repo: Path
    python: str
    uv: str
    cloudpickle: Path
    netns_pool: int

    @classmethod
    def read(cls, path: str) -> Config:
        raw = json.loads(Path(path).read_text())
        return cls(
            state=Path(raw["state"]),
            run=Path(raw["run"]),
            socket=Path(raw["socket"]),
            platform=str(raw["platform"]),
            node_uid=int(raw["node_uid"]),
            node_gid=int(raw["node_gid"]),
            criu=tuple(raw["criu"] or ()),
            init=Path(raw["init"]),
            instance_bpf=Path(raw["instance_bpf"]),
            waiting=Path(raw["waiting"]),
            repo=Path(raw["repo"]),
            python=str(raw["python"]),
            uv=str(raw["uv"]),
            cloudpickle=Path(raw["cloudpickle"]),
            netns_pool=int(raw["netns_pool"]),
        )

    @property
    def mounts(self) -> Path:
        """Mount points of the spawner's own mount namespace."""
        return self.run / "mnt"

    @property
    def store(self) -> Path:
        """What containers see read-only: images, guest, bundles, layers. Owned by root, shown to each tenant by an id
        map.
        """
        return self.state / "store"

    def container(self, ctr: str) -> Path:
        return self.state / "containers" / ctr

    def machine(self, ctr: str) -> Path:
        """Of a container of users: what outlives its processes."""
        return self.state / "machines" / ctr

    def kit(self, kit: str) -> Path:
        return self.state / "kits" / kit

    def snapshot(self, snp: str) -> Path:
        return self.state / "snapshots" / snp

    def bundle(self, tenant: str, bundle: str) -> Path:
        return self.store / "bundles" / tenant / bundle

    def layer(self, tenant: str, layer: str) -> Path:
        return self.store / "layers" / tenant / layer

    def volume(self, tenant: str, volume: str) -> Path:
        return self.state / "volumes" / tenant / volume


def write_json(path: Path, value: object) -> None:
    """Replace `path` by `value` in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value))
    temporary.rename(path)
