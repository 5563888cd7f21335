"""The state machines: one table each, from which the Python check, the Lua compare-and-set and the docs are derived.

Not here: who moves a state and when (pool and runtime decide that).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar


class ContainerState(StrEnum):
    CREATING = "creating"
    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    EXITED = "exited"
    ERROR = "error"
    DELETING = "deleting"
    DELETED = "deleted"


class VersionState(StrEnum):
    PENDING = "pending"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"


class FunctionState(StrEnum):
    """Derived from a function's versions and from what was asked (`derive_function_state`), never stored by itself."""

    PENDING = "pending"
    DEPLOYING = "deploying"
    ACTIVE = "active"
    PAUSED = "paused"
    ERROR = "error"
    DELETING = "deleting"


class InstanceState(StrEnum):
    WARMING = "warming"
    READY = "ready"
    BUSY = "busy"
    RECYCLING = "recycling"
    TERMINATING = "terminating"


class InvocationStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


class VolumeState(StrEnum):
    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"


class OperationStatus(StrEnum):
    ACCEPTED = "accepted"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


class StartKind(StrEnum):
    """How the instance that served an invocation came to be for it. A `cold_start` is every kind but `warm`."""

    WARM = "warm"
    FORK = "fork"
    RESTORE = "restore"
    BOOT = "boot"


CONTAINER: Mapping[ContainerState, frozenset[ContainerState]] = {
    ContainerState.CREATING: frozenset({ContainerState.CREATED, ContainerState.ERROR}),
    ContainerState.CREATED: frozenset({ContainerState.STARTING, ContainerState.DELETING, ContainerState.ERROR}),
    ContainerState.STARTING: frozenset({ContainerState.RUNNING, ContainerState.EXITED, ContainerState.ERROR}),
    ContainerState.RUNNING: frozenset({ContainerState.PAUSED, ContainerState.STOPPING, ContainerState.ERROR}),
    ContainerState.PAUSED: frozenset({ContainerState.RUNNING, ContainerState.STOPPING, ContainerState.ERROR}),
    ContainerState.STOPPING: frozenset({ContainerState.EXITED, ContainerState.ERROR}),
    ContainerState.EXITED: frozenset({ContainerState.STARTING, ContainerState.DELETING, ContainerState.ERROR}),
    ContainerState.ERROR: frozenset({ContainerState.DELETING}),
    ContainerState.DELETING: frozenset({ContainerState.DELETED, ContainerState.ERROR}),
    ContainerState.DELETED: frozenset(),
}

VERSION: Mapping[VersionState, frozenset[VersionState]] = {
    VersionState.PENDING: frozenset({VersionState.BUILDING}),
    VersionState.BUILDING: frozenset({VersionState.READY, VersionState.FAILED}),
    VersionState.READY: frozenset(),
    VersionState.FAILED: frozenset({VersionState.BUILDING}),
}

INSTANCE: Mapping[InstanceState, frozenset[InstanceState]] = {
    InstanceState.WARMING: frozenset({InstanceState.READY, InstanceState.TERMINATING}),
    InstanceState.READY: frozenset({InstanceState.BUSY, InstanceState.RECYCLING}),
    InstanceState.BUSY: frozenset({InstanceState.READY, InstanceState.RECYCLING, InstanceState.TERMINATING}),
    InstanceState.RECYCLING: frozenset({InstanceState.TERMINATING}),
    InstanceState.TERMINATING: frozenset(),
}

INVOCATION: Mapping[InvocationStatus, frozenset[InvocationStatus]] = {
    InvocationStatus.QUEUED: frozenset({InvocationStatus.RUNNING, InvocationStatus.FAILED, InvocationStatus.TIMEOUT}),
    InvocationStatus.RUNNING: frozenset(
        {
            InvocationStatus.SUCCESS,
            InvocationStatus.FAILED,
            InvocationStatus.TIMEOUT,
            InvocationStatus.CANCELLED,
        }
    ),
    InvocationStatus.SUCCESS: frozenset(),
    InvocationStatus.FAILED: frozenset(),
    InvocationStatus.TIMEOUT: frozenset(),
    InvocationStatus.CANCELLED: frozenset(),
}

VOLUME: Mapping[VolumeState, frozenset[VolumeState]] = {
    VolumeState.CREATING: frozenset({VolumeState.READY, VolumeState.DELETING}),
    VolumeState.READY: frozenset({VolumeState.DELETING}),
    VolumeState.DELETING: frozenset(),
}

_ENDED_EARLY = frozenset({OperationStatus.FAILED, OperationStatus.CANCELLED})

OPERATION: Mapping[OperationStatus, frozenset[OperationStatus]] = {
    OperationStatus.ACCEPTED: frozenset({OperationStatus.QUEUED, OperationStatus.RUNNING}) | _ENDED_EARLY,
    OperationStatus.QUEUED: frozenset({OperationStatus.RUNNING}) | _ENDED_EARLY,
    OperationStatus.RUNNING: frozenset({OperationStatus.SUCCEEDED, OperationStatus.TIMED_OUT}) | _ENDED_EARLY,
    OperationStatus.SUCCEEDED: frozenset(),
    OperationStatus.FAILED: frozenset(),
    OperationStatus.CANCELLED: frozenset(),
    OperationStatus.TIMED_OUT: frozenset(),
}


OPERATION_ENDS: frozenset[OperationStatus] = frozenset(status for status, after in OPERATION.items() if not after)


class IllegalTransition(Exception):
    """A state was asked to move where its table has no arrow: always a bug of ours. Carries the thing's history."""


S = TypeVar("S", bound=StrEnum)


def check(table: Mapping[S, frozenset[S]], old: S, new: S, history: object = None) -> None:
    """Raise IllegalTransition unless `table` has an arrow from `old` to `new`."""
    if new not in table[old]:
        raise IllegalTransition(f"{type(old).__name__}: {old} → {new} is not allowed; history: {history!r}")
