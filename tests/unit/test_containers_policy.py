"""What becomes of a container that has ended: the policy, as a specification."""

from __future__ import annotations

import pytest

from pool.containers.policy import Restart, comes_back, expired, pause_before_restart


@pytest.mark.parametrize(
    ("restart", "code", "in_a_row", "ran_s", "pause"),
    [
        ("no", 1, 0, 0, None),
        ("no", 0, 0, 100, None),
        ("on-failure", 0, 0, 0, None),
        ("on-failure", 1, 0, 0, 0.1),
        ("on-failure", 137, 1, 0, 0.2),
        ("always", 0, 0, 0, 0.1),
        ("always", 0, 3, 9.9, 0.8),
        ("always", 0, 3, 10, 0.1),
        ("always", 1, 9, 0, 51.2),
        ("always", 1, 10, 0, 60),
        ("always", 1, 10_000, 0, 60),
    ],
)
def test_the_pause_before_a_command_is_started_again(
    restart: Restart, code: int, in_a_row: int, ran_s: float, pause: float | None
) -> None:
    assert pause_before_restart(restart, code, in_a_row, ran_s) == pause


@pytest.mark.parametrize(
    ("restart", "reason", "back"),
    [
        ("no", "init_died", False),
        ("no", "platform_ended", False),
        ("on-failure", "init_died", True),
        ("on-failure", "out_of_memory", True),
        ("on-failure", "not_started", True),
        ("on-failure", "platform_ended", False),
        ("always", "platform_ended", True),
        ("always", "init_died", True),
        ("always", None, True),
    ],
)
def test_which_containers_come_back(restart: Restart, reason: str | None, back: bool) -> None:
    assert comes_back(restart, reason) is back


def test_time_to_live() -> None:
    assert not expired(None, 1e12)
    assert not expired(10.0, 9.999)
    assert expired(10.0, 10.0)
