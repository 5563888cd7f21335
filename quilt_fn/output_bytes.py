"""What a command wrote, in JSON: as text, and beside it as base64 where text can't say it exactly.

Not here: frames, which carry base64 always.
"""

from __future__ import annotations

import base64

LIMIT_BYTES = 1 << 20
"""Of one stream of a command that is gathered."""


class Kept:
    """The beginning of what one stream of a command wrote, up to `limit_bytes`; `truncated` where more came."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self.data = bytearray()
        self.truncated = False
        self._limit_bytes = limit_bytes

    def add(self, piece: bytes) -> None:
        if self.truncated:
            return
        room = self._limit_bytes - len(self.data)
        self.data += piece[:room]
        if len(piece) > room:
            self.truncated = True
            drop_cut_character(self.data)

    def in_json(self) -> tuple[str, str | None]:
        return in_json(bytes(self.data))


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
