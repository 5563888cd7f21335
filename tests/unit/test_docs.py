"""The documentation says what the code does: names, tables, links, and blocks that parse.

Not here: running the README's commands (tests/acceptance), and pages that other rooms write and compare themselves.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quilt_fn import errors, states
from quilt_fn.cli.main import COMMANDS
from quilt_fn.settings import Settings
from runtime.spawner import image_operations, machines, operations, volumes, wires
from tests.acceptance.markdown import ROOT, Block, anchors, blocks, links, pages

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
NOT_SETTINGS = {"QUILT_INSTANCE_ID", "QUILT_START", "QUILT_CLOCK_OFFSET_S", "QUILT_READY_FD"}
"""What the platform itself puts into an environment."""


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quilt_docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks_of(language: str) -> list[Any]:
    found: list[tuple[Path, Block]] = [(page, block) for page in pages() for block in blocks(page)]
    return [
        pytest.param(block, id=f"{page_id(page)}-{number}")
        for number, (page, block) in enumerate(found)
        if block.language == language
    ]


def first_column(page: Path) -> set[str]:
    """What stands in backquotes in the first column of a page's tables."""
    return set(re.findall(r"^\| `([^`]+)` \|", page.read_text(), re.MULTILINE))


# the reference


def test_pages_from_the_code_are_as_the_code_is() -> None:
    made = generator()
    for path, make in made.PAGES.items():
        if path == made.README:  # its figures are of a bench, which is no code, and may be running now
            continue
        assert path.read_text() == make(), f"run `python docs/generate.py` for {page_id(path)}"


def test_settings_are_documented() -> None:
    assert first_column(REFERENCE / "settings.md") == {f"QUILT_{field.name.upper()}" for field in fields(Settings)}


def test_error_codes_are_documented() -> None:
    codes = {code for code, cls in errors.all_errors().items() if cls.__module__ == errors.__name__}
    assert first_column(REFERENCE / "errors.md") == codes


def test_metrics_are_documented() -> None:
    exposed = {name for name, *_ in generator().metrics()}
    assert first_column(REFERENCE / "metrics.md") == exposed
    spelled = set(re.findall(r'"(quilt_\w+)"', (ROOT / "pool" / "metrics.py").read_text()))
    assert {name.removesuffix("_total") for name in exposed} == spelled


def test_every_machine_is_documented() -> None:
    text = (REFERENCE / "states.md").read_text()
    for name in ("container", "version", "instance", "invocation", "volume", "operation"):
        table = getattr(states, name.upper())
        section = text.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]
        rows = {old: set(re.findall(r"`(\w+)`", news)) for old, news in re.findall(r"\| `(\w+)` \| (.*) \|", section)}
        assert rows == {old.value: {new.value for new in news} for old, news in table.items()}


# what pages mention


@pytest.mark.parametrize("page", pages(), ids=page_id)
def test_links_resolve(page: Path) -> None:
    for target in links(page):
        if target.startswith(("http://", "https://")):
            continue
        path, _, fragment = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target} leads nowhere"
        if fragment:
            assert fragment in anchors(there), f"{target}: there is no such heading"


@pytest.mark.parametrize("page", pages(), ids=page_id)
def test_files_that_are_named_are_there(page: Path) -> None:
    for name in re.findall(r"`([\w.-]+/[\w/.-]+\.(?:py|c|sh|toml))`", page.read_text()):
        places = (ROOT, ROOT / "runtime", ROOT / "docs", page.parent)
        assert any((place / name).exists() for place in places), f"{name} is not there"


@pytest.mark.parametrize("page", pages(), ids=page_id)
def test_settings_that_are_named_are_there(page: Path) -> None:
    known = {f"QUILT_{field.name.upper()}" for field in fields(Settings)} | NOT_SETTINGS
    assert set(re.findall(r"\bQUILT_[A-Z][A-Z_]*[A-Z]\b", page.read_text())) <= known


@pytest.mark.parametrize("page", pages(), ids=page_id)
def test_commands_that_are_shown_are_there(page: Path) -> None:
    indented_or_fenced = re.findall(
        r"^(?: {4}|[a-z]+=\$\(|)(?:[A-Z_]+=\S+ )*quilt (\w+)", page.read_text(), re.MULTILINE
    )
    inline = re.findall(r"`quilt (\w+)[^`]*`", page.read_text())
    assert {*indented_or_fenced, *inline} <= set(COMMANDS)


def test_every_page_can_be_reached() -> None:
    found: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in found:
            continue
        found.add(page)
        for target in links(page):
            there = (page.parent / target.partition("#")[0]).resolve()
            if there.suffix == ".md" and there.exists():
                todo.append(there)
    assert {page for page in pages() if page.is_relative_to(ROOT / "docs")} <= found


def test_every_decision_is_in_the_list() -> None:
    listed = {(DOCS / target).resolve() for target in links(DOCS / "README.md") if target.startswith("decisions/")}
    assert listed == set((DOCS / "decisions").glob("*.md"))


def test_the_architecture_names_each_operation_of_the_spawner() -> None:
    section = (ROOT / "ARCHITECTURE.md").read_text().partition("## The spawner's protocol")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    served = {name for room in (image_operations, machines, operations, volumes, wires) for name in room.TABLE}
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == {*served, "keep"}


# code blocks


@pytest.mark.parametrize("block", blocks_of("sh"))
def test_shell_blocks_parse(block: Block) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-n"], input=block.text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("block", blocks_of("python"))
def test_python_blocks_parse(block: Block) -> None:
    compile(block.text, "block", "exec")


def test_the_figures_are_those_of_the_last_bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = generator()
    latest = tmp_path / "latest.md"
    monkeypatch.setattr(made, "ROOT", tmp_path)
    monkeypatch.setattr(made, "FIGURES", latest)
    assert "Not measured yet" in made.figures()
    latest.write_text(
        "# Figures\n\ncores 2; python 3.11\n\n| suite |\n|---|\n| warm |\n\n| suite | what |\n|---|---|\n"
    )
    assert made.figures() == (
        "| suite |\n|---|\n| warm |\n\ncores 2; python 3.11. [All rows, with their floors](latest.md)\n"
    )


def test_the_generator_says_what_is_stale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = generator()
    page = made.ROOT / "docs" / "reference" / "nothing.md"
    monkeypatch.setattr(made, "PAGES", {page: lambda: "text"})
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert made.main() == 1
    assert not page.exists()
