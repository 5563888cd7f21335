"""One page of a list that lies in memory, newest first, and the cursor of the next page.

Not here: lists that lie in Redis (`pool.records`, `pool.operations`), whose cursors are Redis's scores and numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from quilt_fn.errors import InvalidValue

_CURSOR = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z~[a-z]+_\w+")

Entry = TypeVar("Entry")


def newest_first(
    entries: Iterable[Entry], place: Callable[[Entry], str], limit: int, cursor: str | None
) -> tuple[list[Entry], str | None]:
    """At most `limit` entries after `cursor`, and the next page's cursor, None at the end.

    `place` is an entry's creation time and id, `<iso>~<id>`; a cursor is the place of the last one on the page before.
    Raises InvalidValue where it is none.
    """
    if cursor is not None and _CURSOR.fullmatch(cursor) is None:
        raise InvalidValue(f"not a cursor of this list: {cursor[:100]!r}")
    found = sorted((each for each in entries if cursor is None or place(each) < cursor), key=place, reverse=True)
    page = found[:limit]
    return page, place(page[-1]) if len(found) > limit else None
