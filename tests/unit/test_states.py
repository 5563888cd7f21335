"""The state machines: tables complete, ends reachable; and a function's state as derived from its versions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from enum import StrEnum

import pytest

from pool.functions import ASKED_DELETING, ASKED_NOTHING, ASKED_PAUSED, derive_function_state
from quilt_fn import states
from quilt_fn.states import FunctionState, IllegalTransition, VersionState, check

TABLES: dict[str, tuple[type[StrEnum], Mapping]] = {  # type: ignore[type-arg]
    "container": (states.ContainerState, states.CONTAINER),
    "version": (states.VersionState, states.VERSION),
    "instance": (states.InstanceState, states.INSTANCE),
    "invocation": (states.InvocationStatus, states.INVOCATION),
    "volume": (states.VolumeState, states.VOLUME),
    "operation": (states.OperationStatus, states.OPERATION),
}


@pytest.mark.parametrize("name", TABLES)
def test_each_state_has_a_row_and_arrows_end_in_states(name: str) -> None:
    states_of, table = TABLES[name]
    assert set(table) == set(states_of)
    assert all(set(arrows) <= set(states_of) for arrows in table.values())


@pytest.mark.parametrize("name", TABLES)
def test_each_pair_is_allowed_as_the_table_says(name: str) -> None:
    states_of, table = TABLES[name]
    for old, new in itertools.product(states_of, repeat=2):
        if new in table[old]:
            check(table, old, new)
        else:
            with pytest.raises(IllegalTransition, match="history"):
                check(table, old, new)


READY, FAILED, BUILDING, PENDING = (
    VersionState.READY, VersionState.FAILED, VersionState.BUILDING, VersionState.PENDING,
)  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "current", "versions", "expected"),
    [
        (ASKED_NOTHING, 0, [PENDING], FunctionState.PENDING),
        (ASKED_NOTHING, 0, [BUILDING], FunctionState.DEPLOYING),
        (ASKED_NOTHING, 0, [FAILED], FunctionState.ERROR),
        (ASKED_NOTHING, 0, [FAILED, PENDING], FunctionState.PENDING),
        (ASKED_NOTHING, 1, [READY], FunctionState.ACTIVE),
        (ASKED_NOTHING, 1, [READY, BUILDING], FunctionState.DEPLOYING),
        (ASKED_NOTHING, 1, [READY, FAILED], FunctionState.ACTIVE),
        (ASKED_NOTHING, 1, [READY, PENDING], FunctionState.ACTIVE),
        (ASKED_PAUSED, 1, [READY], FunctionState.PAUSED),
        (ASKED_PAUSED, 1, [READY, BUILDING], FunctionState.DEPLOYING),
        (ASKED_DELETING, 1, [READY, BUILDING], FunctionState.DELETING),
    ],
)
def test_a_functions_state(asked: str, current: int, versions: list[VersionState], expected: FunctionState) -> None:
    assert derive_function_state(asked, current, versions[-1], versions) is expected
