"""The reference pages say what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import docs

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", sorted(docs.PAGES))
def test_a_page_is_what_the_code_makes(name: str) -> None:
    assert (REFERENCE / name).read_text() == docs.PAGES[name](), "run: python -m gateway.docs"
