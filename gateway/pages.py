"""Lists that come in pages: how `limit` and `cursor` are read, and how a page is answered.

Not here: what is in a list, and its cursors (`pool.paging`).
"""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from gateway.context import Ask, answer
from gateway.route import Query

LIST_DEFAULT, LIST_MAX = 100, 1000
QUERY = (
    Query("limit", f"at most {LIST_MAX}; {LIST_DEFAULT} where it is absent", "integer"),
    Query("cursor", "`next_cursor` of the page before"),
)


def asked(ask: Ask) -> tuple[int, str | None]:
    """(limit, cursor) of the request. Raises InvalidValue."""
    return ask.number("limit", LIST_DEFAULT, LIST_MAX), ask.request.query.get("cursor")


def page(things: str, found: tuple[Sequence[object], str | None]) -> web.Response:
    """The records under their name, and the next page's cursor."""
    records, next_cursor = found
    return answer({things: records, "next_cursor": next_cursor})


def example(things: str) -> dict[str, object]:
    """What a route of such a list answers, for its documentation."""
    return {things: [], "next_cursor": None}
