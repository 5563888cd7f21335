"""What a terminal's screen repeats to a client that comes later."""

from __future__ import annotations

from runtime.containers.screen import RESET, Screen


def test_what_was_shown_is_repeated_after_a_reset() -> None:
    screen = Screen()
    screen.feed(b"one\r\n")
    screen.feed("zwölf".encode())
    assert screen.replay() == RESET + b"one\r\n" + "zwölf".encode()
    assert screen.replay() == screen.replay()


def test_it_is_bounded_and_begins_at_a_line() -> None:
    screen = Screen(kept_bytes=1000)
    for number in range(10_000):
        screen.feed(b"line %d\r\n" % number)
        assert len(screen.replay()) <= 2100
    lines = screen.replay().removeprefix(RESET).split(b"\r\n")
    assert lines[-2:] == [b"line 9999", b""]
    assert lines[0].startswith(b"line ")
    assert len(lines) > 50


def test_modes_that_were_set_long_ago_are_told_again() -> None:
    screen = Screen(kept_bytes=1000)
    screen.feed(b"\x1b[?1049h\x1b[?25l\x1b[?1000;1006h\x1b[?2004h")
    for _ in range(1000):
        screen.feed(b"a line of a program that fills the screen\r\n")
    screen.feed(b"\x1b[?25h")
    replay = screen.replay()
    for mode in (b"\x1b[?1049h", b"\x1b[?1000h", b"\x1b[?1006h", b"\x1b[?2004h"):
        assert replay.index(mode) < 60
    assert replay.endswith(b"\x1b[?25h")


def test_questions_to_the_terminal_are_not_asked_again() -> None:
    screen = Screen()
    questions = [
        b"\x1b[6n", b"\x1b[5n", b"\x1b[?6n", b"\x1b[c", b"\x1b[0c", b"\x1b[>c", b"\x1b[=c", b"\x1b[?2026$p", b"\x1b[>q",
        b"\x1b[18t", b"\x1b[21t", b"\x1b]10;?\x07", b"\x1b]11;?\x1b\\", b"\x1b]4;1;?\x07", b"\x1bP$qm\x1b\\",
        b"\x1bP+q544e\x1b\\", b"\x1bZ", b"\x05",
    ]  # fmt: skip
    for question in questions:
        screen.feed(b"a" + question + b"b")
    assert screen.replay() == RESET + b"ab" * len(questions)


def test_colours_moves_and_titles_stay() -> None:
    shown = b"\x1b[31mred\x1b[0m\x1b[2J\x1b[1;1H\x1b]0;title\x07\x1b[?25l\x1b(B\x1b[4 q\x1b[8;24;80t"
    screen = Screen()
    screen.feed(shown)
    assert screen.replay() == RESET + shown


def test_output_without_lines_is_cut_at_whole_characters() -> None:
    screen = Screen(kept_bytes=1000)
    for _ in range(2000):
        screen.feed("ä".encode())
    screen.replay().removeprefix(RESET).decode()  # strict: no half character at its beginning
    coloured = Screen(kept_bytes=1000)
    for _ in range(2000):
        coloured.feed(b"\x1b[38;5;123m#")
    assert coloured.replay().removeprefix(RESET).startswith(b"\x1b[38;5;123m#")
