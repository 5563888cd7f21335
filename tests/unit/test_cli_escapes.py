"""What containers, functions and files are called and say can't steer the terminal of whoever looks at them."""

from __future__ import annotations

import click
import pytest

from quilt_fn.cli import escapes, functions, output
from quilt_fn.errors import BuildFailed
from quilt_fn.model.invocation import InvocationRecord

HOSTILE = "a\x1b]0;owned\x07\x9b2J\x7f\nb"
SHOWN = "a\\x1b]0;owned\\a\\x9b2J\\x7f\\nb"


def steers(text: str, beside: str = "\n") -> list[str]:
    return [letter for letter in text if not letter.isprintable() and letter not in beside]


def test_a_cell_is_one_line_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["name", "size"], [(HOSTILE, 1), ("plain", 2)], empty="")
    out = capsys.readouterr().out
    assert SHOWN in out and not steers(out)
    assert len(out.splitlines()) == 4  # the head, its rule, and a line for each row


def test_a_cell_of_several_lines_keeps_them_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["", ""], [("stdout", escapes.Lines("one\x1b[2J\r\ntwo"))], empty="")
    out = capsys.readouterr().out
    assert [line.split()[-1] for line in out.splitlines()] == ["one\\x1b[2J", "two"] and not steers(out)


@pytest.mark.parametrize("letter", ["\0", "\x1b", "\r", "\x7f", "\x80", "\x9b", "\x9f", "\u2028", "\t", "\n"])
def test_no_control_character_passes_a_line(letter: str) -> None:
    assert not steers(escapes.line(f"a{letter}b"), beside="")


def test_what_is_written_in_other_alphabets_stays() -> None:
    assert escapes.line("Grüße 你好 🙂 C:\\x\xa0y") == "Grüße 你好 🙂 C:\\x\xa0y"


def test_an_error_can_t_steer_the_terminal_nor_fake_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = BuildFailed(f"no {HOSTILE}", details={"traceback": f"Traceback\n\tx {HOSTILE}"}, hint=HOSTILE)
    error.add_note(HOSTILE)
    output.show_error(error, as_json=False)
    err = click.unstyle(capsys.readouterr().err)
    assert not steers(err, beside="\n\t")
    assert err.splitlines() == [
        "Traceback", "\tx a\\x1b]0;owned\\a\\x9b2J\\x7f", "b", f"error: no {SHOWN}", SHOWN, f"hint: {SHOWN}",
    ]  # fmt: skip


def test_what_a_call_wrote_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    record = InvocationRecord.model_validate(
        {"invocation_id": "inv_1", "function_id": "fn_1", "function_name": "f", "version": 1, "status": "failed",
         "started_at": 0.0, "stdout": "one\ntwo\x1b[2J", "error_message": "boom\nat once"}
    )  # fmt: skip
    output.table(["", ""], functions._facts_of_call(record), empty="")
    out = capsys.readouterr().out
    assert {"two\\x1b[2J", "at once"} <= {line.strip() for line in out.splitlines()}
