"""What a terminal showed lately, for whoever attaches to it later: the bytes themselves, bounded, made safe to repeat.

The client's own terminal draws from them what the last screenful was, so nothing here has to know how to draw. Three
things are taken care of: what set the terminal's modes longer ago than the bytes go back is told again, questions
to the terminal are left out (it would answer them once more, into the command's input), and the repeat begins at a
line's start, never in the middle of a sequence or of a character.
"""

from __future__ import annotations

import re

KEPT_BYTES = 256 * 1024
RESET = b"\x1bc"

_MODE = re.compile(rb"\x1b\[\?([0-9;]{1,40})([hl])")
_QUESTIONS = re.compile(
    rb"\x1b\[[?>=]?[0-9;]*[cn]"  # device attributes, status, cursor position
    rb"|\x1b\[[?]?[0-9;]*\$p"  # the state of a mode
    rb"|\x1b\[[>]?[0-9;]*q"  # the terminal's version
    rb"|\x1b\[1[4-9]t|\x1b\[2[01]t"  # sizes and titles
    rb"|\x1b\][0-9;]*\?(?:\x07|\x1b\\)"  # colours and the like
    rb"|\x1bP[$+][qp][^\x1b]*\x1b\\"  # settings and capabilities
    rb"|\x1bZ|\x05"
)
_MODES_KEPT = frozenset(b"1 6 7 9 12 25 47 1000 1002 1003 1004 1005 1006 1015 1047 1048 1049 2004".split())
_LONGEST_SEQUENCE = 64


class Screen:
    """`feed` what the terminal's inner side wrote; `replay` is what a new client has to be sent first."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._bytes = bytearray()
        self._modes: dict[bytes, bytes] = {}
        """Of what was cut off: mode → b"h" or b"l"."""

    def feed(self, data: bytes) -> None:
        self._bytes += data
        if len(self._bytes) > 2 * self._kept_bytes:
            self._cut(len(self._bytes) - self._kept_bytes)

    def _cut(self, at: int) -> None:
        end = self._bytes.find(b"\n", at, at + self._kept_bytes // 2)
        at = end + 1 if end >= 0 else self._whole(at)
        for modes, value in _MODE.findall(self._bytes[:at]):
            for mode in modes.split(b";"):
                if mode in _MODES_KEPT:
                    self._modes[mode] = value
        del self._bytes[:at]

    def _whole(self, at: int) -> int:
        """A place near `at` that is in no sequence and in no character of several bytes."""
        begun = self._bytes.rfind(b"\x1b", at - _LONGEST_SEQUENCE, at)
        if begun >= 0:
            at = begun
        while at < len(self._bytes) and self._bytes[at] & 0xC0 == 0x80:
            at += 1
        return at

    def replay(self) -> bytes:
        """A reset, the modes that were cut off, and the last bytes: with them the screen draws itself anew."""
        modes = b"".join(b"\x1b[?" + mode + value for mode, value in self._modes.items())
        return RESET + modes + _QUESTIONS.sub(b"", bytes(self._bytes))
