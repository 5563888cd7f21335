"""The bundle packer: files to a tar.gz whose bytes depend on names, contents and x bits alone: its sha256 names it.

Not here: which files a function needs (`sources`), and what the platform accepts (the runtime checks that by itself).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quilt_fn import ignore
from quilt_fn.errors import BundleInvalid, PayloadTooLarge

LIMIT_BYTES = 32 << 20
"""What a platform takes by default (QUILT_MAX_BODY_MB), of the packed bytes."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A packed archive; `bundle_id` is the sha256 of the bytes that are uploaded."""

    data: bytes = field(repr=False)
    files: tuple[str, ...]
    bundle_id: str

    @property
    def size_bytes(self) -> int:
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Entry:
    data: bytes = field(repr=False)
    executable: bool = False


def pack(entries: Mapping[str, Entry], limit_bytes: int = LIMIT_BYTES) -> Bundle:
    """Pack `entries` by relative name. Raises BundleInvalid for none at all, PayloadTooLarge over `limit_bytes`."""
    if not entries:
        raise BundleInvalid("there is no file to pack", hint="are all of them named in .gitignore or .quiltignore?")
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(entries):
            entry = entries[name]
            member = tarfile.TarInfo(name)
            member.size = len(entry.data)
            member.mode = 0o755 if entry.executable else 0o644
            archive.addfile(member, io.BytesIO(entry.data))
    data = gzip.compress(raw.getvalue(), compresslevel=6, mtime=0)
    if len(data) > limit_bytes:
        raise _too_large(entries, len(data), limit_bytes)
    return Bundle(data, tuple(sorted(entries)), hashlib.sha256(data).hexdigest())


def pack_path(path: Path, limit_bytes: int = LIMIT_BYTES) -> Bundle:
    """Pack one file, or a folder's content. Raises BundleInvalid, PayloadTooLarge, and what pack raises."""
    return pack(read(path, limit_bytes), limit_bytes)


def read(
    path: Path, limit_bytes: int = LIMIT_BYTES, below: str = "", patterns: ignore.Ignore | None = None
) -> dict[str, Entry]:
    """The entries of a file or folder, named below the folder `below` of the bundle.

    `patterns` are for the names in the bundle; without them the folder's own ignore files hold.
    Links to files and folders within are packed as what they lead to. Raises BundleInvalid for a link that leads out or
    in a circle, a socket, pipe or device; PayloadTooLarge once what was read can't fit any more.
    """
    if path.is_file():
        return {below + path.name: _entry(path)}
    if not path.is_dir():
        raise BundleInvalid(f"{path} is neither a file nor a folder")
    entries: dict[str, Entry] = {}
    size = 0
    for name, file in _walk(path, below, patterns or ignore.read(path)):
        entry = entries[name] = _entry(file)
        size += len(entry.data)
        # No file of code packs to less than a thousandth: reading on would only fill the memory.
        if size > limit_bytes * 1000:
            raise _too_large(entries, size, limit_bytes)
    return entries


def _walk(root: Path, below: str, patterns: ignore.Ignore) -> Iterator[tuple[str, Path]]:
    real_root = root.resolve()
    todo: list[tuple[str, Path, tuple[Path, ...]]] = [(below, root, (real_root,))]
    while todo:
        prefix, folder, above = todo.pop()
        for child in sorted(folder.iterdir()):
            name = prefix + child.name
            if patterns.matches(name, is_folder=child.is_dir()):
                continue
            if child.is_symlink():
                _check_link(name, child, real_root, above)
            if child.is_dir():
                if not (child / "pyvenv.cfg").exists():
                    todo.append((name + "/", child, (*above, child.resolve())))
            elif child.is_file():
                yield name, child
            else:
                raise BundleInvalid(
                    f"{name} is neither a file nor a folder", hint="delete it, or name it in .quiltignore"
                )


def _check_link(name: str, link: Path, root: Path, above: tuple[Path, ...]) -> None:
    target = link.resolve()
    leads = f"the link {name} leads to {link.readlink()}"
    if not target.exists():
        raise BundleInvalid(f"{leads}, which is not there", hint="delete it, or name it in .quiltignore")
    if not target.is_relative_to(root):
        raise BundleInvalid(f"{leads}, outside of {root}", hint="copy what it leads to, or name it in .quiltignore")
    if target in above:
        raise BundleInvalid(f"{leads}, a folder that holds it", hint="delete it, or name it in .quiltignore")


def _entry(file: Path) -> Entry:
    try:
        with file.open("rb") as opened:
            return Entry(opened.read(), bool(os.fstat(opened.fileno()).st_mode & stat.S_IXUSR))
    except OSError as error:
        raise BundleInvalid(f"{file} cannot be read: {error.strerror}") from error


def _too_large(entries: Mapping[str, Entry], size: int, limit_bytes: int) -> PayloadTooLarge:
    largest = sorted(entries, key=lambda name: len(entries[name].data), reverse=True)[:3]
    shown = ", ".join(f"{name} ({len(entries[name].data) / 1e6:.1f} MB)" for name in largest)
    return PayloadTooLarge(
        f"the bundle has {size / 1e6:.1f} MB, at most {limit_bytes / 1e6:.1f} MB may be; its largest files: {shown}",
        details={"limit_bytes": limit_bytes, "size_bytes": size},
        hint="name what is not needed in .quiltignore; a platform's limit is set by QUILT_MAX_BODY_MB",
    )
