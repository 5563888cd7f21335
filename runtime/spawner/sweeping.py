"""What goes without being asked for: what a death left half made, what nothing stands on any more, and at the end all.

Not here: the operations that end one thing (`operations`, `machines`).
"""

from __future__ import annotations

import json

from runtime.spawner import debian, images, machines, volumes
from runtime.spawner.cgroups import Cgroups
from runtime.spawner.context import remove, same_process
from runtime.spawner.names import Config


def kits_there(config: Config) -> set[str]:
    folder = config.state / "kits"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def sweep(config: Config, groups: Cgroups, keep: set[str]) -> None:
    """End and remove what is half made, and every kit but those in `keep`, with the instances in them.

    At the spawner's start every kit is kept: a node that lives on says which are its own when it connects again.
    """
    kept = keep | machines.alive(config)
    machines.sweep(config, groups)
    folder = config.state / "containers"
    for path in folder.iterdir() if folder.exists() else []:
        try:
            if same_process(json.loads((path / "meta.json").read_text())):
                kept.add(path.name)
                continue
        except (FileNotFoundError, ValueError):
            pass
        groups.kill(path.name)
        remove(path)
    for name in groups.names() - kept:
        groups.remove(name)
    for folder in (config.state / "kits", config.state / "snapshots", *(config.store / "bundles").glob("*"),
                   *(config.store / "layers").glob("*"), *(config.state.parent / "cache").glob("*"),
                   config.store / "images", config.store / "guest"):  # fmt: skip
        for path in folder.iterdir() if folder.exists() else []:
            if path.name.startswith(".") or (folder.name == "kits" and path.name not in keep):
                remove(path)
    volumes.sweep(config)


def collect(config: Config) -> None:
    """At the spawner's start: remove images and guests that nothing stands on any more."""
    used = {images.host(config), images.guest(config), *debian.kept(config)}
    for pattern in ("containers/*/meta.json", "snapshots/*/manifest.json"):
        for path in config.state.glob(pattern):
            raw = json.loads(path.read_text())
            lowers = raw.get("manifest", raw)["lowers"]
            used |= {lowers["image"], lowers["guest"]}
    for _, meta in machines.there(config):
        used |= {meta["image"], meta["guest"]}
    for kind in ("images", "guest"):
        for path in (config.store / kind).iterdir():
            if f"{kind}/{path.name}" not in used:
                remove(path)


def end_all(config: Config, groups: Cgroups) -> None:
    """At the platform's end: nothing runs, nothing is mounted, no group is left."""
    machines.end_all(config, groups)
    for name in groups.names():
        groups.remove(name)
    groups.remove_platform()
    volumes.end(config)
    for folder in (config.state / "containers", config.state / "kits"):
        for path in folder.iterdir() if folder.exists() else []:
            remove(path)
