"""What goes into an archive, from real files of this machine: its own /proc, pipes and folders in tmp_path.

Not here: archives that come in (tests/integration/test_archives).
"""

from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.spawner import archives
from runtime.spawner import volume_files as files
from runtime.spawner.protocol import Refused


@pytest.fixture
def top(tmp_path: Path) -> Iterator[files.Top]:
    """Of a volume whose files lie in data/."""
    (tmp_path / "data").mkdir()
    (tmp_path / "incoming").mkdir()
    fds = [os.open(tmp_path / name, files.FOLDER) for name in ("data", "incoming")]
    yield files.Top(*fds, reserve=0)
    for fd in fds:
        os.close(fd)


@pytest.fixture
def root() -> Iterator[files.Top]:
    """Of a container, as which this machine stands here."""
    fd = os.open("/", files.FOLDER)
    yield files.Top(fd, -1, 0, mounts=True)
    os.close(fd)


def packed(top: files.Top, path: str, *, zipped: bool = False) -> dict[str, bytes | None]:
    """Contents by name; None for what is no file."""
    out = os.memfd_create("archive")
    try:
        archives.pack(top, out, path, zipped)
        data = os.pread(out, 1 << 24, 0)
    finally:
        os.close(out)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {each.name: file.read() if (file := tar.extractfile(each)) else None for each in tar}


def test_a_file_of_the_kernel_that_says_it_is_empty_is_whole(root: files.Top) -> None:
    assert packed(root, "proc/version") == {"version": Path("/proc/version").read_bytes()}


def test_one_that_says_it_is_larger_than_it_is_too(root: files.Top) -> None:
    path = Path("/sys/kernel/uevent_seqnum")
    found = packed(root, str(path)[1:])[path.name]
    assert found is not None and 0 < len(found) < path.stat().st_size and found.strip().isdigit()


def test_one_that_says_it_is_empty_is_not_read_without_end(root: files.Top, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "UNTOLD_LIMIT", 8)
    with pytest.raises(Refused, match="'/proc/version' doesn't say how large it is"):
        packed(root, "proc/version")


@pytest.mark.parametrize("size", [0, 1, archives.SMALL, archives.SMALL + 1])
def test_other_files_are_as_they_are(top: files.Top, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "data" / "file").write_bytes(data)
    assert packed(top, ".") == packed(top, "file", zipped=True) == {"file": data}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("path", ["dev/null", "dev/zero"])
def test_a_device_that_is_named_is_refused_before_anything_is_written(root: files.Top, path: str, zipped: bool) -> None:
    out = os.memfd_create("archive")
    try:
        with pytest.raises(Refused, match="is a pipe, a socket or a device") as caught:
            archives.pack(root, out, path, zipped)
        assert caught.value.kind == "refused" and os.fstat(out).st_size == 0
    finally:
        os.close(out)


def test_a_pipe_and_a_socket_are_refused_by_name_and_left_out_of_a_folder(top: files.Top, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "kept").write_bytes(b"kept")
    os.mkfifo(data / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"/proc/self/fd/{top.data}/socket")
    assert packed(top, ".") == {"kept": b"kept"}
    for name in ("pipe", "socket"):
        with pytest.raises(Refused):
            packed(top, name)


@pytest.mark.parametrize("zipped", [False, True])
def test_of_what_is_not_there_nothing_is_written(top: files.Top, zipped: bool) -> None:
    out = os.memfd_create("archive")
    try:
        with pytest.raises(FileNotFoundError):
            archives.pack(top, out, "none", zipped)
        assert os.fstat(out).st_size == 0
    finally:
        os.close(out)
