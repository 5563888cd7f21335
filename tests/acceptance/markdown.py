"""What the tests of the documentation read in a Markdown page: code blocks, links, headings.

Not here: any judgement about them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BY_HAND = "<!-- by hand -->"
"""Before a block that a test cannot run: it makes the machine ready for the test itself."""
AT_A_TERMINAL = "<!-- at a terminal -->"
"""Before a block whose commands want somebody who types."""

_FENCE = re.compile(
    r"(?:^(?P<before><!--.*?-->)\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_FILE = re.compile(r"# (?P<name>[\w.-]+\.py)\n")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `file` is the name that its first line gives it (`# hello.py`)."""

    language: str
    text: str
    by_hand: bool
    at_a_terminal: bool
    file: str | None


def pages() -> list[Path]:
    """Every page that people read: the top level's and docs/."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


def blocks(page: Path) -> Iterator[Block]:
    for found in _FENCE.finditer(page.read_text()):
        named = _FILE.match(found["text"])
        yield Block(
            found["language"], found["text"], found["before"] == BY_HAND, found["before"] == AT_A_TERMINAL,
            named["name"] if named is not None else None,
        )  # fmt: skip


def links(page: Path) -> Iterator[str]:
    yield from (found["target"] for found in _LINK.finditer(_FENCE.sub("", page.read_text())))


def anchors(page: Path) -> set[str]:
    """The fragment of each heading, as the usual hosts make it: small letters, `-` for spaces, no punctuation."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
