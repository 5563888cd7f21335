"""Programs that the spawner runs, and that nothing of it brings a handler for its forks."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runtime.spawner import programs
from runtime.spawner.context import is_ending
from runtime.spawner.programs import ProgramFailed

ROOT = Path(__file__).resolve().parents[2]


def test_what_goes_in_and_comes_out() -> None:
    done = programs.run("sh", "-c", "cat; echo no >&2; exit 3", given=b"yes")
    assert (done.code, done.out, done.err, done.said) == (3, b"yes", b"no\n", "no")


def test_more_than_a_pipe_holds() -> None:
    given = bytes(range(256)) * 8192
    assert programs.checked("cat", given=given) == given


def test_one_that_fails_says_why_in_its_own_words() -> None:
    with pytest.raises(ProgramFailed, match=r"^`sh -c echo why >&2; exit 7` ended with code 7: why$") as caught:
        programs.checked("sh", "-c", "echo why >&2; exit 7")
    assert caught.value.done.code == 7
    with pytest.raises(ProgramFailed, match="was ended by signal 9: it said nothing"):
        programs.checked("sh", "-c", "kill -9 $$")


def test_one_that_works_in_vain_is_killed() -> None:
    """Here: on a process that is killed meanwhile."""
    with subprocess.Popen(["sleep", "1000"]) as subject:

        def in_vain() -> bool:
            return is_ending(subject.pid)

        assert programs.run("sleep", "0.5", timeout_s=60, in_vain=in_vain).code == 0
        threading.Timer(0.1, subject.kill).start()
        with pytest.raises(ProcessLookupError):
            programs.run("sleep", "1000", timeout_s=1000, in_vain=in_vain)


def test_one_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        programs.run("no-such-program-here")


def test_one_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        programs.run("sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 60", timeout_s=0.3)
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()
    begun = time.monotonic()
    assert programs.run("true", timeout_s=60).code == 0
    assert time.monotonic() - begun < 30


def test_its_environment_is_ours_or_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "1")
    assert programs.checked("sh", "-c", "echo $OURS$THEIRS") == b"1\n"
    assert programs.checked("sh", "-c", "echo $OURS$THEIRS", environment={"THEIRS": "2"}) == b"2\n"


def test_a_program_ends_by_a_closed_pipe() -> None:
    """Python ignores SIGPIPE, and who is started would inherit that."""
    assert programs.run("sh", "-c", "kill -PIPE $$; echo went on").code == -13


def test_no_handler_runs_in_the_spawners_forks() -> None:
    code = (
        "import sys, runtime.spawner.__main__; "
        "print(*[m for m in ('threading', 'random', 'logging', 'subprocess', 'asyncio') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.split() == []
