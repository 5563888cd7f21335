"""Why a command ended, from its exit code and what the kernel counts."""

from __future__ import annotations

import pytest

from runtime.containers.ends import MemoryKills, count_in, exit_reason


@pytest.mark.parametrize(
    ("events", "count"),
    [
        (b"low 0\nhigh 0\nmax 31\noom 2\noom_kill 2\noom_group_kill 1\n", 2),
        (b"oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", 7),
        (b"oom_kill_disable 0\nunder_oom 0\n", 0),
        (b"", 0),
    ],
)
def test_the_kernels_count(events: bytes, count: int) -> None:
    assert count_in(events) == count


@pytest.mark.parametrize(
    ("code", "for_memory", "timed_out", "reason"),
    [
        (0, False, False, "exited"), (128, False, False, "exited"), (143, False, False, "signalled"),
        (137, False, False, "signalled"), (137, True, False, "out_of_memory"), (137, True, True, "timed_out"),
        (0, False, True, "timed_out"),
    ],
)  # fmt: skip
def test_the_words(code: int, for_memory: bool, timed_out: bool, reason: str) -> None:
    assert exit_reason(code, for_memory, timed_out) == reason


def test_a_kill_explains_one_end() -> None:
    count: list[int | None] = [0]
    memory = MemoryKills(lambda: count[0])
    first, second = memory.seen(), memory.seen()
    assert not memory.explains(137, first)
    count[0] = 1
    assert not memory.explains(1, first)  # its child may have been killed; it went on and said so itself
    assert memory.explains(137, first)
    assert not memory.explains(137, second)
    count[0] = 2
    assert memory.explains(137, second)


def test_kills_before_a_command_do_not_explain_its_end() -> None:
    memory = MemoryKills(lambda: 3)
    assert not memory.explains(137, memory.seen())


def test_a_group_that_is_gone_explains_nothing() -> None:
    memory = MemoryKills(lambda: None)
    assert (memory.seen(), memory.explains(137, 0)) == (0, False)
