"""Copying what a container wrote: everything is kept, links are not followed, and limits hold."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from runtime.spawner import trees
from runtime.spawner.protocol import Refused


def test_files_folders_links_pipes_modes_times_and_removed_marks_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/file").write_bytes(b"x" * 100_000)
    (source / "a/b/file").chmod(0o640)
    os.utime(source / "a/b/file", ns=(1_000_000_000, 2_000_000_123))
    (source / "link").symlink_to("/etc/shadow")
    os.mkfifo(source / "pipe")
    trees.copy(source, tmp_path / "target")
    copied = tmp_path / "target"
    assert (copied / "a/b/file").read_bytes() == b"x" * 100_000
    found = (copied / "a/b/file").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o640, 2_000_000_123)
    assert (copied / "link").readlink() == Path("/etc/shadow")
    assert stat.S_ISFIFO((copied / "pipe").lstat().st_mode)


def test_too_deep_is_refused(tmp_path: Path) -> None:
    deepest = tmp_path / "source"
    deepest.mkdir()
    for _ in range(trees.DEPTH_LIMIT + 2):
        deepest = deepest / "d"
        deepest.mkdir()
    with pytest.raises(Refused, match="folders deep"):
        trees.copy(tmp_path / "source", tmp_path / "target")


def test_a_folder_that_turns_into_a_link_leads_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("of another tenant")
    source = tmp_path / "source"
    source.mkdir()
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            (source / "swapped").mkdir()
            (source / "swapped").rmdir()
            (source / "swapped").symlink_to(secret)
            (source / "swapped").unlink()

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for number in range(300):
            target = tmp_path / f"target{number}"
            try:
                trees.copy(source, target)
            except (Refused, OSError):
                continue  # it noticed; what must not be is a copy of what lies behind the link
            finally:
                assert not list(target.glob("swapped/key")) or (target / "swapped").is_symlink()
    finally:
        over.set()
        thread.join()
