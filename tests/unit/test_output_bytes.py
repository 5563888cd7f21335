"""Output as JSON has it, and output that was cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quilt_fn.output_bytes import drop_cut_character, from_json, in_json


@given(st.binary())
def test_bytes_come_back_as_they_were(data: bytes) -> None:
    assert from_json(*in_json(data)) == data


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_has_no_second_form(text: str) -> None:
    assert in_json(text.encode()) == (text, None)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 40))
def test_cut_text_is_text(text: str, size: int) -> None:
    data = bytearray(text.encode()[:size])
    before = len(data)
    drop_cut_character(data)
    assert text.startswith(data.decode()) and before - len(data) < 4


@given(st.binary())
def test_cut_bytes_lose_no_more_than_the_beginning_of_a_character(data: bytes) -> None:
    kept = bytearray(data)
    drop_cut_character(kept)
    assert data.startswith(kept) and len(data) - len(kept) < 4
