"""Pages of a list: each entry once, newest first, and a cursor that is none is refused."""

from __future__ import annotations

import pytest

from pool.clock import iso
from pool.paging import by_name, newest_first
from quilt_fn.errors import InvalidValue

PLACES = [f"{iso(1_700_000_000 + second)}~ctr_{second:020x}" for second in range(5)]


def test_pages_go_on_at_the_cursor_until_there_are_no_more() -> None:
    seen: list[str] = []
    cursor = None
    while True:
        page, cursor = newest_first(PLACES, str, 2, cursor)
        seen += page
        if cursor is None:
            break
        assert cursor == page[-1]
    assert seen == PLACES[::-1]


def test_a_page_that_ends_with_the_list_has_no_next() -> None:
    assert newest_first(PLACES, str, len(PLACES), None) == (PLACES[::-1], None)
    assert newest_first([], str, 1, PLACES[0]) == ([], None)


@pytest.mark.parametrize("cursor", ["", "zzz", "~", PLACES[0][:-24], PLACES[0].replace("T", " "), PLACES[0] + "\n"])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidValue, match="not a cursor"):
        newest_first(PLACES, str, 2, cursor)


def test_pages_by_name_go_on_behind_the_last_name() -> None:
    names = ["host", "debian", "alpine"]
    assert by_name(names, str, 2, None) == (["alpine", "debian"], "debian")
    assert by_name(names, str, 2, "debian") == (["host"], None)
    assert by_name(names, str, 2, "c") == (["debian", "host"], None), "also behind one that is gone"
    with pytest.raises(InvalidValue, match="not a cursor"):
        by_name(names, str, 2, "../x")
