"""Volumes: `<state>/volumes/<tenant>/<volume>/`, and the operations on them. Ids, and paths resolved beneath a volume.

`data/` is what users see, `incoming/` where files wait until they are whole. A volume with a limit keeps both in a
filesystem of its own (`disks`). What is done with files is done in a jail (`volume_files`, `archives`).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runtime.spawner import archives, disks, jail, staging, tenants, trees
from runtime.spawner import volume_files as files
from runtime.spawner.context import Answer, Context, Message
from runtime.spawner.names import Config, checked, integer
from runtime.spawner.protocol import Refused

DISK = "disk.ext4"
LIMIT_LOW_MB, LIMIT_HIGH_MB = 16, 1 << 24
PAGE = 200
RESERVE_LIMIT = 256 << 20
"""At most this stays free below volumes without a limit; on a small disk a twentieth of it."""
_UPLOAD = re.compile(r"[0-9a-f]{20}")


# --- where they lie ---------------------------------------------------------------------------------------------------


def place(config: Config, tenant: str, volume: str) -> Path:
    """The folder with the volume's data/ and incoming/, mounted where it has to be. Raises Refused (absent)."""
    folder = config.volume(tenant, volume)
    if not folder.is_dir():
        raise Refused(f"there is no volume {volume}", "absent", {"what": "volume"})
    if not (folder / DISK).exists():
        return folder
    target = _mounts(config) / volume
    with tenants.locked(config.run / "volumes.lock"):
        if not os.path.ismount(target):
            disks.mount(folder / DISK, target)
            _furnish(config, tenant, target)
            _clear(target)
    return target


def _mounts(config: Config) -> Path:
    return config.mounts / "volumes"


def _furnish(config: Config, tenant: str, folder: Path) -> None:
    base = tenants.base_id(config, tenant)
    for name, mode in (("data", 0o755), ("incoming", 0o700)):
        path = folder / name
        if not path.exists():
            path.mkdir()
            path.chmod(mode)
            os.chown(path, base, base)


def _clear(folder: Path) -> None:
    """What waits in the volume, or does at its top on behalf of a container."""
    incoming = folder / "incoming"
    for path in incoming.iterdir() if incoming.is_dir() else []:
        trees.remove(path) if not files.waits(path.name) else None
    for place in (incoming, folder / "data"):
        staging.sweep(place)


def sweep(config: Config) -> None:
    """Remove volumes that were half made or half deleted, and what uploads left whose node is gone."""
    for folder in (config.state / "volumes").glob("*/*"):
        if folder.name.startswith("."):
            trees.remove(folder)
        elif not (folder / DISK).exists():
            _clear(folder)
        elif os.path.ismount(_mounts(config) / folder.name):
            _clear(_mounts(config) / folder.name)


def end(config: Config) -> None:
    """At the platform's end: nothing is mounted."""
    for target in _mounts(config).glob("*"):
        disks.unmount(target)


# --- operations -------------------------------------------------------------------------------------------------------


def make(ops: Context, message: Message, fds: list[int]) -> Answer:
    """{tenant, volume, size_mb: n or null} → {}."""
    config, tenant, volume = ops.config, *_names(message)
    size_mb = integer(message, "size_mb", LIMIT_LOW_MB, LIMIT_HIGH_MB) if message.get("size_mb") is not None else None
    folder = config.volume(tenant, volume)
    if folder.exists():
        raise Refused(f"{volume} is there already")
    temporary = folder.with_name(f".{volume}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        if size_mb is None:
            _furnish(config, tenant, temporary)
        else:
            disks.make(temporary / DISK, size_mb)
        temporary.rename(folder)
    except OSError as error:
        raise ours(error, "the volume") from None
    finally:
        trees.remove(temporary) if temporary.exists() else None
    try:
        place(config, tenant, volume)
    except BaseException:
        _remove(config, tenant, volume)
        raise
    return {}, []


def drop(ops: Context, message: Message, fds: list[int]) -> Answer:
    """{tenant, volume} → {}. Nothing may be attached to it any more. Idempotent."""
    _remove(ops.config, *_names(message))
    return {}, []


def _remove(config: Config, tenant: str, volume: str) -> None:
    folder = config.volume(tenant, volume)
    with tenants.locked(config.run / "volumes.lock"):
        disks.unmount(_mounts(config) / volume)
        gone = folder.with_name(f".gone-{volume}-{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            folder.rename(gone)
    # Also what a make or a drop of it has left whose process was killed.
    for left in [*folder.parent.glob(f".gone-{volume}-*"), *folder.parent.glob(f".{volume}.*")]:
        trees.remove(left)


def stored(ops: Context, message: Message, fds: list[int]) -> Answer:
    """{tenant, volume} → {there: bool}."""
    return {"there": ops.config.volume(*_names(message)).is_dir()}, []


def open_file(ops: Context, message: Message, fds: list[int]) -> Answer:
    """{tenant, volume, path} → {size, mode, modified_at}, [file]."""
    top, path = _inside(ops.config, message)
    with told(path):
        fd = files.open_file(top, path)
        found = os.fstat(fd)
    return {"size": found.st_size, "mode": stat.S_IMODE(found.st_mode), "modified_at": found.st_mtime}, [fd]


def create(ops: Context, message: Message, fds: list[int]) -> Answer:
    """{tenant, volume, upload} → {reserve}, [file]: a file that waits to be written and put in its place."""
    top, _ = _inside(ops.config, message)
    try:
        return {"reserve": top.reserve}, [files.create(top, _upload(message))]
    except OSError as error:
        raise ours(error, "the file") from None


def commit(ops: Context, message: Message, fds: list[int]) -> Answer:
    """{tenant, volume, upload, path, mode: n or null} → {}: the file in its place, in one step."""
    mode = integer(message, "mode", 0, 0o777) if message.get("mode") is not None else None
    top, path = _inside(ops.config, message)
    name = _upload(message)
    try:
        os.stat(name, dir_fd=top.incoming, follow_symlinks=False)
    except FileNotFoundError:
        raise Refused("the upload was swept away when the spawner restarted; send it again", "failed") from None
    with told(path):
        files.commit(top, name, path, mode)
    return {}, []


def discard(ops: Context, message: Message, fds: list[int]) -> Answer:
    """{tenant, volume, upload} → {}. Idempotent."""
    top, _ = _inside(ops.config, message)
    files.discard(top, _upload(message))
    return {}, []


def listing(ops: Context, message: Message, fds: list[int]) -> Answer:
    """{tenant, volume, path, after, limit} → {entries, more}."""
    limit, after = integer(message, "limit", 1, PAGE), message.get("after", "")
    if not isinstance(after, str):
        raise Refused("after must be a name")
    top, path = _inside(ops.config, message)
    with told(path):
        return files.listing(top, path, after, limit), []


def remove(ops: Context, message: Message, fds: list[int]) -> Answer:
    """{tenant, volume, path, recursive} → {}."""
    top, path = _inside(ops.config, message)
    with told(path):
        files.remove(top, path, message.get("recursive") is True)
    return {}, []


def measure(ops: Context, message: Message, fds: list[int]) -> Answer:
    """{tenant, volume} → {bytes, files, complete, free}: `free` bytes could still be written."""
    top, _ = _inside(ops.config, message)
    room = os.fstatvfs(top.data)
    return {**files.measure(top), "free": max(0, room.f_bavail * room.f_frsize - top.reserve)}, []


def unpack(ops: Context, message: Message, fds: list[int]) -> Answer:
    """{tenant, volume, path, strip}, [pipe, whether it is whole] → {entries, bytes}: a tar or tar.gz below the folder
    `path`.
    """
    strip = integer(message, "strip", 0, files.DEPTH_LIMIT)
    pipe, whole = pipes(fds, 2)

    def work(top: files.Top, path: str) -> dict[str, Any]:
        return archives.unpack(top, pipe, whole, path, strip)

    return _in_jail(ops.config, message, fds, work, outlives=True), []


def pack(ops: Context, message: Message, fds: list[int]) -> Answer:
    """{tenant, volume, path, zipped}, [pipe] → {entries}: what is at `path` as tar or tar.gz."""
    (out,) = pipes(fds, 1)
    zipped = message.get("zipped") is True
    return _in_jail(ops.config, message, fds, lambda top, path: archives.pack(top, out, path, zipped)), []


# --- shared -----------------------------------------------------------------------------------------------------------


def _names(message: Message) -> tuple[str, str]:
    return checked("tenant", message.get("tenant")), checked("volume", message.get("volume"))


def _upload(message: Message) -> str:
    name = message.get("upload")
    if not isinstance(name, str) or not _UPLOAD.fullmatch(name):
        raise Refused(f"not an id of an upload: {name!r}"[:200])
    return name


def pipes(fds: list[int], count: int) -> list[int]:
    """The descriptors of a request that moves an archive. Raises Refused."""
    if len(fds) != count or not all(stat.S_ISFIFO(os.fstat(fd).st_mode) for fd in fds):
        raise Refused(f"this takes {count} pipe(s)")
    return fds


def _open(config: Config, tenant: str, volume: str) -> files.Top:
    folder = place(config, tenant, volume)
    data = os.open(folder / "data", files.FOLDER)
    incoming = os.open(folder / "incoming", files.FOLDER)
    reserve = 0
    if not (config.volume(tenant, volume) / DISK).exists():
        disk = os.fstatvfs(data)
        reserve = min(RESERVE_LIMIT, disk.f_blocks * disk.f_frsize // 20)
    return files.Top(data, incoming, reserve)


def _inside(config: Config, message: Message) -> tuple[files.Top, str]:
    """The volume opened, its path checked, and this process (which serves one request) in the jail for good."""
    tenant, volume = _names(message)
    path = files.relative(message.get("path", "."))
    top = _open(config, tenant, volume)
    jail.as_tenant(jail.namespace(config, tenant), top.data)
    return top, path


def _in_jail(
    config: Config, message: Message, fds: list[int], work: Callable[[files.Top, str], dict[str, Any]],
    *, outlives: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """As `_inside`, in a process of its own that holds nothing of the spawner's: it reads what is hostile."""
    tenant, volume = _names(message)
    path = files.relative(message.get("path", "."))
    top = _open(config, tenant, volume)
    users = jail.namespace(config, tenant)

    def inside() -> dict[str, Any]:
        jail.as_tenant(users, top.data)
        if outlives:
            jail.outlive_parent()
        with told(path):
            return work(top, path)

    return dict(jail.call(inside, [top.data, top.incoming, users, *fds]))


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """An OSError of the block as what it means to the user who named the path `what` of a volume."""
    try:
        yield
    except OSError as error:
        raise files.told(error, repr(what)) from None


def ours(error: OSError, what: str) -> Refused:
    """An OSError at a place of the platform's own, which users have no say in: a fault, unless there is no room."""
    said = files.told(error, what)
    return said if said.kind == "full" else Refused(f"{what}: {error.strerror or error}", "failed")


TABLE: dict[str, Callable[[Context, Message, list[int]], Answer]] = {
    "volume_make": make,
    "volume_drop": drop,
    "volume_stored": stored,
    "volume_open": open_file,
    "volume_create": create,
    "volume_commit": commit,
    "volume_discard": discard,
    "volume_list": listing,
    "volume_remove": remove,
    "volume_measure": measure,
    "volume_unpack": unpack,
    "volume_pack": pack,
}
