"""What a command wrote, in JSON: as text, and beside it as base64 where text can't say it exactly.

Not here: frames, which carry base64 always.
"""

from __future__ import annotations

import base64


def in_json(data: bytes) -> tuple[str, str | None]:
    """(text, base64): the text has U+FFFD for what is not UTF-8, and only then there is base64, of all of it."""
    try:
        return data.decode(), None
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace"), base64.b64encode(data).decode()


def from_json(text: str, data_b64: str | None) -> bytes:
    """The bytes that `in_json` was given."""
    return text.encode() if data_b64 is None else base64.b64decode(data_b64)


def drop_cut_character(data: bytearray) -> None:
    """Of output that was cut at a limit: take away the beginning of a UTF-8 character whose rest fell beyond it. So
    text stays text.
    """
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:  # the first byte of a character, which says how many it has
            size = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            if size > back:
                del data[-back:]
            return
