"""What the errors of the kernel mean to who named a path, and paths as they are given: on files in tmp_path.

Not here: archives (test_spawner_archives), and the same over HTTP (tests/integration).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quilt_fn.errors import InvalidValue
from runtime.spawner import container_archives
from runtime.spawner import volume_files as files
from runtime.spawner.protocol import Refused
from runtime.spawner.volumes import ours
from runtime.spawner_client import SpawnerFailed
from runtime.volumes.store import told


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_what_may_not_be_written_is_the_request_s_fault_and_not_to_be_tried_again(number: int) -> None:
    refused = files.told(os_error(number), "'x'", "x")
    error = told(SpawnerFailed(str(refused), refused.kind, refused.details))
    assert isinstance(error, InvalidValue) and not error.retryable and "'x' can't be" in error.message


@pytest.mark.parametrize(("number", "kind"), [(errno.EROFS, "failed"), (errno.EPERM, "failed"), (errno.ENOSPC, "full")])
def test_at_a_place_of_the_platform_s_own_it_is_a_fault(number: int, kind: str) -> None:
    assert ours(os_error(number), "the volume").kind == kind


@pytest.fixture
def top(tmp_path: Path) -> Iterator[files.Top]:
    """Of a volume with the file `file`."""
    (tmp_path / "data").mkdir()
    (tmp_path / "incoming").mkdir()
    (tmp_path / "data" / "file").write_text("x")
    fds = [os.open(tmp_path / name, files.FOLDER) for name in ("data", "incoming")]
    yield files.Top(*fds, reserve=0)
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize(
    "work",
    [
        lambda top: files.listing(top, "file", "", 10),
        lambda top: files.open_file(top, "file/under"),
        lambda top: files.remove(top, "file/under", recursive=True),
        lambda top: files.make_folder(top, "file/under", 0o755),
    ],
)
def test_a_file_where_a_folder_is_needed_is_not_said_to_be_absent(top: files.Top, work: Callable[[Any], Any]) -> None:
    with pytest.raises(NotADirectoryError) as caught:
        work(top)
    refused = files.told(caught.value, "'file/under'")
    assert (refused.kind, str(refused)) == ("refused", "'file/under': a file lies where a folder is needed")


def test_what_is_said_of_a_container_names_it_and_its_paths_as_they_are_there() -> None:
    top = files.Top(-1, -1, 0, mounts=True)
    assert [top.shown(path) for path in (".", "etc/x")] == ["'/'", "'/etc/x'"]
    assert str(files.told(os_error(errno.EXDEV), "'/x'", noun=top.noun)) == "'/x' leads out of the container by a link"
    with pytest.raises(Refused) as caught:
        container_archives._path({"path": "/../../etc"})
    assert str(caught.value) == "path '/../../etc' has `..` in it: say where that is from the container's root"
    assert container_archives._path({"path": "//nope/"}) == ("nope", "//nope/")
