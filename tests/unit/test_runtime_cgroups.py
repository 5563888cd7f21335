"""What the spawner says of limits that it can't set, on trees of plain files.

Not here: limits that are in force, which takes real groups (tests/integration).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.spawner import cgroups
from runtime.spawner.cgroups import Cgroups

FILES = {"v1": "memory/quilt-p/memory.memsw.limit_in_bytes", "v2": "quilt-p/memory.swap.max"}


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file by which swap is limited, in a tree of this version; its folder is there."""
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    monkeypatch.setattr(cgroups, "SWAPS", tmp_path / "swaps")
    (tmp_path / "swaps").touch()
    (tmp_path / ("cgroup.controllers" if request.param == "v2" else "tasks")).touch()
    path = tmp_path / FILES[request.param]
    path.parent.mkdir(parents=True)
    return path


def test_swap_is_limited_where_the_file_can_be_written(file: Path) -> None:
    file.touch()
    assert Cgroups("p").swap_unlimited() is None


def test_swap_that_cannot_be_limited_is_told(file: Path) -> None:
    said = Cgroups("p").swap_unlimited()
    assert said is not None and f"{file.name}: No such file" in said
    file.mkdir()  # stands for any file that can't be opened for writing: for root a mode is no hindrance
    said = Cgroups("p").swap_unlimited()
    assert said is not None and f"{file.name}: Is a directory" in said


def test_without_swap_nothing_is_missing(file: Path, tmp_path: Path) -> None:
    (tmp_path / "swaps").unlink()
    assert Cgroups("p").swap_unlimited() is None
