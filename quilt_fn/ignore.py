"""Which files of a folder do not go into a bundle: what never should, and the patterns of .gitignore and .quiltignore.

Not here: packing (`bundle`). Of .gitignore's language the folder's own file is read, in the parts that people use:
comments, `!`, a trailing `/`, anchoring by `/`, `*`, `**`, `?` and `[…]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ALWAYS = (
    ".git/", ".hg/", ".svn/", "__pycache__/", ".venv/", "node_modules/", "*.pyc", "*.pyo", ".mypy_cache/",
    ".pytest_cache/", ".ruff_cache/", ".tox/", ".DS_Store", ".quiltignore", ".gitignore",
)  # fmt: skip
FILES = (".gitignore", ".quiltignore")
"""Read in this order, so that .quiltignore has the last word."""


@dataclass(frozen=True, slots=True)
class Pattern:
    expression: re.Pattern[str]
    folders_only: bool
    keeps: bool


@dataclass(frozen=True, slots=True)
class Ignore:
    """The patterns for one folder; the last one that matches decides."""

    patterns: tuple[Pattern, ...]

    def matches(self, path: str, *, is_folder: bool) -> bool:
        """Whether `path` (relative, with `/`) stays out."""
        out = False
        for pattern in self.patterns:
            if (is_folder or not pattern.folders_only) and pattern.expression.fullmatch(path):
                out = not pattern.keeps
        return out


def read(folder: Path) -> Ignore:
    """The patterns that hold for `folder`."""
    lines: list[str] = list(ALWAYS)
    for name in FILES:
        file = folder / name
        if file.is_file():
            lines += file.read_text(encoding="utf-8", errors="replace").splitlines()
    return parse(lines)


def parse(lines: Iterable[str]) -> Ignore:
    """Patterns from lines of .gitignore's language."""
    found = (_pattern(line) for line in lines)
    return Ignore(tuple(pattern for pattern in found if pattern is not None))


def _pattern(line: str) -> Pattern | None:
    text = line.rstrip()
    if not text or text.startswith("#"):
        return None
    keeps = text.startswith("!")
    text = text[1:] if keeps else text.removeprefix("\\")
    folders_only = text.endswith("/")
    text = text.rstrip("/")
    if not text:
        return None
    anchored = "/" in text
    body = _translate(text.lstrip("/"))
    return Pattern(re.compile(body if anchored else f"(?:.*/)?{body}"), folders_only, keeps)


def _translate(glob: str) -> str:
    out, at = [], 0
    while at < len(glob):
        rest = glob[at:]
        if rest.startswith("**/"):
            out.append("(?:.*/)?")
            at += 3
        elif rest.startswith("**"):
            out.append(".*")
            at += 2
        elif rest[0] == "*":
            out.append("[^/]*")
            at += 1
        elif rest[0] == "?":
            out.append("[^/]")
            at += 1
        elif rest[0] == "[" and "]" in rest[2:]:
            end = rest.index("]", 2)
            inner = rest[1:end].replace("\\", "\\\\")
            out.append(f"[{'^' + inner[1:] if inner[0] == '!' else inner}]")
            at += end + 1
        else:
            out.append(re.escape(rest[0]))
            at += 1
    return "".join(out)
