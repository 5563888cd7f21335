"""Text from containers, functions and files, made safe for a terminal: what would steer it is shown as `\\x1b`.

Not here: what commands, terminals and `cat` pass on byte by byte (that is theirs to write), nor JSON.
"""

from __future__ import annotations

_NAMED = {0x07: "\\a", 0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0B: "\\v", 0x0C: "\\f", 0x0D: "\\r"}
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | _NAMED
"""C0, DEL and C1: some terminals take U+009B for ESC [."""
_BREAKS = {code: f"\\u{code:04x}" for code in (0x2028, 0x2029)}
"""Python and some programs take these for the end of a line."""
_LINE = _CONTROLS | _BREAKS
_LINES = {code: shown for code, shown in _LINE.items() if chr(code) not in "\n\t"}


class Lines(str):
    """A text that is meant to have several lines, such as a traceback: it keeps its newlines and tabs."""

    __slots__ = ()


def line(text: str) -> str:
    """`text` on one line, without anything that steers a terminal; `ls -b` does it so, but leaves backslashes alone."""
    return text.translate(_LINE)


def lines(text: str) -> str:
    """`text` without anything that steers a terminal, but newlines and tabs."""
    return text.replace("\r\n", "\n").translate(_LINES)


def cell(value: object) -> str:
    """A value as it is shown: `Lines` as such, anything else on one line."""
    return lines(value) if isinstance(value, Lines) else line(str(value))
