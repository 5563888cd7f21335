"""What the spawner says of its machine, where a part of it is not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from runtime.spawner import facts
from tests.integration import own_network


@pytest.mark.parametrize("criu", [(), ("/nowhere/criu",), ("/etc/passwd",), ("/bin/false",)])
def test_a_criu_that_does_not_run_is_none(tmp_path: Path, criu: tuple[str, ...]) -> None:
    config = replace(own_network.config(tmp_path), criu=criu)
    assert facts.criu_version(config) is None
    assert facts.with_criu_that_runs(config) == replace(config, criu=())


def test_a_criu_that_runs_is_kept(tmp_path: Path) -> None:
    config = replace(own_network.config(tmp_path), criu=("/bin/echo", "Version: 4.1"))
    assert facts.criu_version(config) == "4.1 --version"
    assert facts.with_criu_that_runs(config) is config
