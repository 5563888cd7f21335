"""Paths of files as requests name them. Names on a disk are bytes: a file that is there may have any, one that is made
gets text.

Not here: where a path may lead (the spawner decides that).
"""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote_to_bytes

from gateway.context import Ask
from gateway.errors import invalid_field

SEGMENTS = 5
"""Before the file's path: "", api, volumes, the volume's name, files."""


def of_route(ask: Ask) -> str:
    """The path below …/files/, each byte that is no UTF-8 as a surrogate, as in Python's file names."""
    # Not match_info, in which %FF stands for itself, and so for a file of that very name.
    raw = ask.request.rel_url.raw_path.split("/", SEGMENTS)[SEGMENTS]
    return unquote_to_bytes(raw).decode("utf-8", "surrogateescape")


def of_query(ask: Ask) -> str:
    """`path` of the query likewise; "." where it is absent."""
    fields = parse_qsl(ask.request.rel_url.raw_query_string, keep_blank_values=True, errors="surrogateescape")
    return next((value for name, value in fields if name == "path"), "") or "."


def text(path: str) -> str:
    """The path of what is made. Raises InvalidValue where it is not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise invalid_field("path", "a text in UTF-8: a name of other bytes can't be made here", shown(path)) from None
    return path


def of_file(path: str) -> str:
    """The path of a file that is made. Raises InvalidValue where it is not UTF-8, or names a folder."""
    if text(path).rpartition("/")[2] in ("", "."):
        raise invalid_field("path", "a file's: without a slash at its end", path)
    return path


def shown(path: str) -> str:
    """Bytes that are no UTF-8 as `\\xNN`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
