"""What set-up, make and CI rest on: locks with hashes and no registry, targets that are there, docs that fit.

Not here: running set-up; that takes a fresh machine.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")
SHELL = [ROOT / "tools" / "setup", ROOT / "tools" / "lock", *(ROOT / "tools" / "steps").glob("*.sh")]


def locked(name: str) -> dict[str, str]:
    """Each package's block of a lock, by its name."""
    blocks = re.split(r"^(?=[a-z0-9])", (ROOT / name).read_text(), flags=re.MULTILINE)
    return {re.split(r"[=\[ ]", block, maxsplit=1)[0]: block for block in blocks if block}


@pytest.mark.parametrize("name", LOCKS)
def test_each_package_has_its_version_and_hashes(name: str) -> None:
    packages = locked(name)
    assert packages
    for package, block in packages.items():
        assert re.match(r"[a-z0-9.-]+(\[[a-z,]+\])?==\S+", block), package
        assert "--hash=sha256:" in block, package


@pytest.mark.parametrize("name", LOCKS)
def test_locks_name_no_registry(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "index-url" not in text
    assert "find-links" not in text


def test_locks_agree_and_hold_what_the_project_asks_for() -> None:
    core, everything = (locked(name) for name in LOCKS)
    assert {name: everything[name] for name in core} == core
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for wanted, lock in (
        (project["dependencies"] + extras["install"], core),
        (extras["dev"] + extras["bench"], everything),
    ):
        for requirement in wanted:
            assert re.split(r"[\[>=<]", requirement, maxsplit=1)[0] in lock


def test_make_has_its_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "up", "test", "lint", "bench", "docs"):
        assert re.search(rf"^{target}: setup$", makefile, re.MULTILINE), target
    assert re.search(r"^setup:$", makefile, re.MULTILINE)


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_set_up_names_no_host(path: Path) -> None:
    assert not re.search(r"https?://|\b[a-z0-9-]+\.(org|com|net|io|dev)\b", path.read_text())


def docs_tool() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("quilt_docs_tool", str(ROOT / "tools" / "docs"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_settings_page_is_as_the_code_is() -> None:
    assert (ROOT / "docs" / "reference" / "settings.md").read_text() == docs_tool().settings_page()
