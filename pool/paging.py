"""One page of a list that lies in memory, newest first or by name, and the cursor of the next page.

Not here: lists that lie in Redis (`pool.records`, `pool.operations`), whose cursors are Redis's scores and numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from quilt_fn.errors import InvalidValue

_CURSOR = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z~[a-z]+_\w+")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")

Entry = TypeVar("Entry")


def newest_first(
    entries: Iterable[Entry], place: Callable[[Entry], str], limit: int, cursor: str | None
) -> tuple[list[Entry], str | None]:
    """At most `limit` entries after `cursor`, and the next page's cursor, None at the end.

    `place` is an entry's creation time and id, `<iso>~<id>`; a cursor is the place of the last one on the page before.
    Raises InvalidValue where it is none.
    """
    if cursor is not None and _CURSOR.fullmatch(cursor) is None:
        raise _no_cursor(cursor)
    found = sorted((each for each in entries if cursor is None or place(each) < cursor), key=place, reverse=True)
    return _page(found, place, limit)


def by_name(
    entries: Iterable[Entry], name: Callable[[Entry], str], limit: int, cursor: str | None
) -> tuple[list[Entry], str | None]:
    """As `newest_first`, for what has no time: ordered by name; a cursor is the last name on the page before."""
    if cursor is not None and _NAME.fullmatch(cursor) is None:
        raise _no_cursor(cursor)
    found = sorted((each for each in entries if cursor is None or name(each) > cursor), key=name)
    return _page(found, name, limit)


def _page(found: list[Entry], place: Callable[[Entry], str], limit: int) -> tuple[list[Entry], str | None]:
    page = found[:limit]
    return page, place(page[-1]) if len(found) > limit else None


def _no_cursor(text: str) -> InvalidValue:
    return InvalidValue(f"not a cursor of this list: {text[:100]!r}", hint="take `next_cursor` of the page before")
