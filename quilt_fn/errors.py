"""Every error that Quilt raises on purpose: one tree, with its HTTP status and its CLI exit code.

Not here: the error body's shape (`quilt_fn.model.common`) and its translation to HTTP (`gateway.errors`).

    QuiltError
    ├── InvalidRequest          malformed (400)
    │   ├── RangeNotSatisfiable 416
    │   └── InvalidValue        well-formed, but wrong shape or value (422)
    │       ├── BundleInvalid, PythonMismatch
    ├── Unauthenticated, Forbidden
    ├── NotFound
    │   ├── FunctionNotFound, InvocationNotFound, BundleNotFound, RouteNotFound
    │   ├── ContainerNotFound, ImageNotFound, VolumeNotFound, FileNotThere, OperationNotFound
    │   ├── SessionNotFound, ServiceNotFound
    ├── MethodNotAllowed
    ├── Conflict                the state forbids it (409)
    │   ├── NameTaken, FunctionNotDeployed, FunctionPaused, PlatformHeld
    │   ├── ContainerNotRunning, ContainerBusy, VolumeAttached, OperationEnded
    ├── PayloadTooLarge
    │   └── VolumeFull
    ├── LimitReached            429
    │   ├── QueueFull, RateLimited, QuotaExceeded
    ├── Unavailable             503
    │   ├── FunctionBroken, RegistryUnavailable, StartFailed, NotRunning, ContainerBroken
    │   │                       HookFailed is a StartFailed
    │   └── DiskFull            507
    ├── BuildFailed             the user's code or requirements do not build (422)
    ├── FunctionFailed          the user's function failed
    │   ├── HandlerError, HandlerOutOfMemory, ResultNotSerialisable, ResultTooLarge
    │   ├── InvocationTimeout, InvocationCancelled, InstanceDied
    ├── SpawnerError            the spawner refused or could not
    └── InternalError
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class QuiltError(Exception):
    """Base of the tree.

    `message` says what happened and, where the caller can do something, what to do next. `details` is a JSON object
    for programs, `hint` a sentence for people, `retry_after` seconds.
    """

    error_code: ClassVar[str] = "INTERNAL_ERROR"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = dict(details) if details is not None else None
        self.hint = hint
        self.retry_after = retry_after


class InvalidRequest(QuiltError):
    error_code = "INVALID_REQUEST"


class RangeNotSatisfiable(InvalidRequest):
    """`details.size` is the file's size in bytes."""

    error_code = "RANGE_NOT_SATISFIABLE"


class InvalidValue(InvalidRequest):
    error_code = "INVALID_VALUE"


class BundleInvalid(InvalidValue):
    error_code = "BUNDLE_INVALID"


class PythonMismatch(InvalidValue):
    error_code = "PYTHON_MISMATCH"


class Unauthenticated(QuiltError):
    error_code = "UNAUTHENTICATED"


class Forbidden(QuiltError):
    error_code = "FORBIDDEN"


class NotFound(QuiltError):
    error_code = "NOT_FOUND"


class FunctionNotFound(NotFound):
    error_code = "FUNCTION_NOT_FOUND"


class InvocationNotFound(NotFound):
    error_code = "INVOCATION_NOT_FOUND"


class BundleNotFound(NotFound):
    error_code = "BUNDLE_NOT_FOUND"


class RouteNotFound(NotFound):
    error_code = "ROUTE_NOT_FOUND"


class ContainerNotFound(NotFound):
    error_code = "CONTAINER_NOT_FOUND"


class ImageNotFound(NotFound):
    error_code = "IMAGE_NOT_FOUND"


class VolumeNotFound(NotFound):
    error_code = "VOLUME_NOT_FOUND"


class FileNotThere(NotFound):
    """A path within a volume or a container that is not there."""

    error_code = "FILE_NOT_FOUND"


class OperationNotFound(NotFound):
    error_code = "OPERATION_NOT_FOUND"


class SessionNotFound(NotFound):
    error_code = "SESSION_NOT_FOUND"


class ServiceNotFound(NotFound):
    error_code = "SERVICE_NOT_FOUND"


class MethodNotAllowed(QuiltError):
    error_code = "METHOD_NOT_ALLOWED"


class Conflict(QuiltError):
    error_code = "CONFLICT"


class NameTaken(Conflict):
    error_code = "NAME_TAKEN"


class FunctionNotDeployed(Conflict):
    error_code = "FUNCTION_NOT_DEPLOYED"


class FunctionPaused(Conflict):
    error_code = "FUNCTION_PAUSED"


class PlatformHeld(Conflict):
    error_code = "PLATFORM_HELD"


class ContainerNotRunning(Conflict):
    """`details.state` says what it is instead."""

    error_code = "CONTAINER_NOT_RUNNING"


class ContainerBusy(Conflict):
    """Another change of the same container is under way; `details.state` says which."""

    error_code = "CONTAINER_BUSY"
    retryable = True


class VolumeAttached(Conflict):
    """`details.attached_to` names the containers and functions."""

    error_code = "VOLUME_ATTACHED"


class OperationEnded(Conflict):
    """What has ended can't be cancelled; `details.status` says how it ended."""

    error_code = "OPERATION_ENDED"


class PayloadTooLarge(QuiltError):
    error_code = "PAYLOAD_TOO_LARGE"


class VolumeFull(PayloadTooLarge):
    """A volume's size limit, or the disk below it, has no room for this."""

    error_code = "VOLUME_FULL"


class LimitReached(QuiltError):
    error_code = "LIMIT_REACHED"
    retryable = True


class QueueFull(LimitReached):
    error_code = "QUEUE_FULL"


class RateLimited(LimitReached):
    error_code = "RATE_LIMITED"


class QuotaExceeded(LimitReached):
    """`details` holds `quota`, `limit`, `used` and `asked`. `retry_after` is there only where what is too many ends by
    itself (commands, operations, archives): of the rest the user has to free some.
    """

    error_code = "QUOTA_EXCEEDED"
    retryable = False


class Unavailable(QuiltError):
    error_code = "UNAVAILABLE"
    retryable = True


class FunctionBroken(Unavailable):
    error_code = "FUNCTION_BROKEN"


class RegistryUnavailable(Unavailable):
    error_code = "REGISTRY_UNAVAILABLE"


class StartFailed(Unavailable):
    error_code = "START_FAILED"


class HookFailed(StartFailed):
    """An `after_restore` hook raised, or the instance did not outlive its hooks. `details` holds `stage`
    (`after_restore`) and `traceback`, or `output` where it ended without one.
    """

    error_code = "HOOK_FAILED"


class NotRunning(Unavailable):
    """No platform runs on the state folder that was named."""

    error_code = "NOT_RUNNING"
    retryable = False


class ContainerBroken(Unavailable):
    """A container whose state is `error`; it can be deleted."""

    error_code = "CONTAINER_BROKEN"
    retryable = False


class DiskFull(Unavailable):
    """The disk of the state folder has less room than must stay free; nothing new is taken, what runs goes on."""

    error_code = "DISK_FULL"


class BuildFailed(QuiltError):
    """`details` holds `stage` (bundle, layer, boot, import, hook, warmup, snapshot, after_restore) and, where there is
    one, `traceback` or `log`, and the end of what was printed as `output`.
    """

    error_code = "BUILD_FAILED"


class FunctionFailed(QuiltError):
    error_code = "FUNCTION_FAILED"


class HandlerError(FunctionFailed):
    error_code = "HANDLER_ERROR"


class HandlerOutOfMemory(FunctionFailed):
    error_code = "HANDLER_OUT_OF_MEMORY"


class ResultNotSerialisable(FunctionFailed):
    error_code = "RESULT_NOT_SERIALISABLE"


class ResultTooLarge(FunctionFailed):
    error_code = "RESULT_TOO_LARGE"


class InvocationTimeout(FunctionFailed):
    error_code = "INVOCATION_TIMEOUT"


class InvocationCancelled(FunctionFailed):
    error_code = "INVOCATION_CANCELLED"


class InstanceDied(FunctionFailed):
    error_code = "INSTANCE_DIED"
    retryable = True


class SpawnerError(QuiltError):
    error_code = "SPAWNER_ERROR"
    retryable = True


class InternalError(QuiltError):
    error_code = "INTERNAL_ERROR"


# The most specific class in a error's ancestry that stands in a table decides.
HTTP_STATUS: dict[type[QuiltError], int] = {
    QuiltError: 500,
    InvalidRequest: 400,
    RangeNotSatisfiable: 416,
    InvalidValue: 422,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    MethodNotAllowed: 405,
    Conflict: 409,
    PayloadTooLarge: 413,
    LimitReached: 429,
    Unavailable: 503,
    DiskFull: 507,
    BuildFailed: 422,
    FunctionFailed: 500,
    InvocationTimeout: 504,
    InstanceDied: 502,
    SpawnerError: 503,
}

EXIT_CODE: dict[type[QuiltError], int] = {
    QuiltError: 1,
    InvalidRequest: 2,
    Unauthenticated: 4,
    Forbidden: 4,
    NotFound: 3,
    Conflict: 6,
    PayloadTooLarge: 6,
    LimitReached: 6,
    DiskFull: 6,
    BuildFailed: 5,
    HookFailed: 5,
    FunctionFailed: 5,
    InvocationTimeout: 124,
}


def _nearest(error: type[QuiltError], table: Mapping[type[QuiltError], int]) -> int:
    for ancestor in error.__mro__:
        if ancestor in table:
            return table[ancestor]
    raise KeyError(error)


def http_status(error: QuiltError) -> int:
    """The HTTP status that `error` answers with."""
    return _nearest(type(error), HTTP_STATUS)


def exit_code(error: QuiltError) -> int:
    """The CLI's exit code for `error`."""
    return _nearest(type(error), EXIT_CODE)


def all_errors() -> dict[str, type[QuiltError]]:
    """Every class of the tree by its `error_code` (the base keeps no code of its own)."""
    found: dict[str, type[QuiltError]] = {}
    todo: list[type[QuiltError]] = list(QuiltError.__subclasses__())
    while todo:
        cls = todo.pop()
        if "error_code" in vars(cls):  # a room's own subclass speaks with its parent's code
            found[cls.error_code] = cls
        todo.extend(cls.__subclasses__())
    return found


def from_body(body: Mapping[str, Any]) -> QuiltError:
    """The exception that an error body stands for: what the gateway raised, the client raises again."""
    cls = all_errors().get(str(body.get("error_code")), QuiltError)
    return cls(
        str(body.get("error", "the platform answered with an error that has no text")),
        details=body.get("details"),
        hint=body.get("hint"),
        retry_after=body.get("retry_after"),
    )
