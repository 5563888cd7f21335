"""Snapshots on disk: CRIU's images, the writable layer as it stood, and a manifest signed with a key that only root
reads.

CRIU runs as root on these files, so none is restored whose manifest was not written here. Contents are hashed at the
dump and checked at the first restore after a start of the spawner; later restores compare inode, size and change time,
which only root could forge.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import time
from pathlib import Path
from typing import Any

from runtime.spawner import trees
from runtime.spawner.names import Config, write_json
from runtime.spawner.protocol import Refused

MANIFEST = "manifest.json"


def _key(config: Config) -> bytes:
    path = config.state / "sign.key"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.touch(0o600)
        temporary.write_bytes(os.urandom(32))
        with contextlib.suppress(FileExistsError):  # somebody else's, who was quicker: both sign with the same
            path.hardlink_to(temporary)
        temporary.unlink()
        return path.read_bytes()


def _seal(config: Config, manifest: dict[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True).encode()
    return hmac.new(_key(config), text, hashlib.sha256).hexdigest()


def _images(folder: Path) -> list[Path]:
    return sorted((folder / "images").iterdir())


def _digest(path: Path) -> str:
    with path.open("rb") as file:  # images are as large as a container's memory
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(path: Path) -> list[int]:
    found = path.lstat()
    return [found.st_ino, found.st_size, found.st_ctime_ns]


def finish(config: Config, snp: str, folder: Path, about: dict[str, Any]) -> int:
    """Sign the snapshot in `folder` and put it in its place; its size in bytes."""
    files = {p.name: _digest(p) for p in _images(folder)}
    size = sum(p.stat().st_size for p in _images(folder))
    manifest = {"snapshot": snp, "files": files, "size_bytes": size, "taken_at": time.time(), **about}
    write_json(folder / MANIFEST, {"manifest": manifest, "seal": _seal(config, manifest)})
    target = config.snapshot(snp)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        trees.remove(target)
    folder.rename(target)
    return size


def manifest(config: Config, snp: str) -> dict[str, Any]:
    """The manifest of a snapshot, its seal checked. Raises Refused (absent, or failed where it was tampered with)."""
    path = config.snapshot(snp) / MANIFEST
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise Refused(f"there is no snapshot {snp}", "absent") from None
    found: dict[str, Any] = raw["manifest"]
    if _verified(config, snp).get(MANIFEST) != _stamp(path) and not hmac.compare_digest(
        _seal(config, found), str(raw["seal"])
    ):
        raise Refused(f"snapshot {snp} was not signed by this platform", "failed")
    return found


def verify(config: Config, snp: str, files: dict[str, str]) -> None:
    """Raise Refused unless the images are those that were signed, which the manifest, itself checked, names."""
    folder = config.snapshot(snp)
    stamps = {p.name: _stamp(p) for p in _images(folder)}
    known = _verified(config, snp)
    if known.pop(MANIFEST, None) is not None and known == stamps:
        return
    if set(stamps) != set(files) or any(_digest(p) != files[p.name] for p in _images(folder)):
        raise Refused(f"snapshot {snp} is not what was signed", "failed")
    write_json(_marker(config, snp), {**stamps, MANIFEST: _stamp(folder / MANIFEST)})


def _verified(config: Config, snp: str) -> dict[str, list[int]]:
    """The stamps of what was verified since the spawner's start, manifest and images, by file name."""
    try:
        found: dict[str, list[int]] = json.loads(_marker(config, snp).read_text())
    except FileNotFoundError:
        return {}
    return found


def _marker(config: Config, snp: str) -> Path:
    return config.mounts / f"verified-{snp}"


def delete(config: Config, snp: str) -> None:
    """Idempotent."""
    _marker(config, snp).unlink(missing_ok=True)
    target = config.snapshot(snp)
    if target.exists():
        gone = target.with_name(f".gone-{snp}-{os.getpid()}")
        target.rename(gone)
        trees.remove(gone)
