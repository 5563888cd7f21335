"""Functions as the API takes and gives them: create, update, record, pool.

Not here: how a version is built (`runtime`) or kept (`pool.registry`).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, field_validator

from quilt_fn.model import patterns
from quilt_fn.model.common import Attachment, Labels, Model, Record

Name = Annotated[str, StringConstraints(pattern=patterns.NAME)]
Handler = Annotated[str, StringConstraints(pattern=patterns.HANDLER, max_length=256)]
"""`module:function` (`package.module:object.attribute` too), or Lambda's `module.function`."""

EnvironmentName = Annotated[str, StringConstraints(pattern=patterns.ENVIRONMENT_NAME, max_length=128)]
Environment = dict[EnvironmentName, str]
ENVIRONMENT_LIMIT_BYTES = 32 * 1024
Requirement = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=patterns.REQUIREMENT)]
"""As versions hold it. What is asked for now is checked more closely, so that no build begins that would be refused."""
_OF_THE_INDEX = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*[ \t]*(\[[A-Za-z0-9._, \t-]*\])?[^@/\\$:\x00-\x08\x0a-\x1f\x7f-\xa0\u2028\u2029]*"
    r"([ \t]--hash=[a-z0-9]+:[0-9a-f]+)*[ \t]*"
)
"""As in `runtime/spawner/store_operations.py`, which imports nothing of ours; a test compares the two."""


def _of_the_index(line: str) -> str:
    if _OF_THE_INDEX.fullmatch(line) is None:
        raise ValueError("it must name a package of the index, such as `pillow>=11`: no option, path, URL or variable")
    return line


AskedRequirement = Annotated[Requirement, AfterValidator(_of_the_index)]


def _environment_size(value: dict[str, str] | None) -> dict[str, str] | None:
    size = sum(len(k.encode()) + len(v.encode()) + 2 for k, v in (value or {}).items())
    if size > ENVIRONMENT_LIMIT_BYTES:
        raise ValueError(f"at most {ENVIRONMENT_LIMIT_BYTES} bytes in all, this has {size}")
    if any("\0" in v for v in (value or {}).values()):
        raise ValueError("a value holds a NUL byte")
    return value


class Hooks(Model):
    """Functions of the bundle (`module:function`) that run at a template's turning points, in order."""

    before_snapshot: list[Handler] = []
    after_restore: list[Handler] = []


class FunctionSpec(Model):
    """What makes a version: each field is part of what is built, kept warm or enforced."""

    handler: Handler
    runtime: Literal["python3"] = "python3"
    bundle_id: Annotated[str, StringConstraints(pattern=patterns.BUNDLE_ID)] | None = None
    source: Annotated[str, StringConstraints(max_length=1_000_000)] | None = None
    image: Literal["host"] = "host"
    requirements: list[Requirement] = Field(default=[], max_length=500)
    description: Annotated[str, StringConstraints(max_length=1000)] = ""
    memory_limit_mb: int = Field(256, ge=16, le=1_048_576)
    cpu_limit_percent: int = Field(100, ge=1, le=100_000)
    pids_limit: int = Field(256, ge=4, le=32_768)
    timeout_seconds: float = Field(30, gt=0, le=3600)
    environment: Environment = {}
    secrets: Environment = {}
    network: Literal["egress", "none"] = "egress"
    volumes: list[Attachment] = Field(default=[], max_length=32)
    result_limit_mb: int = Field(32, ge=1, le=512)
    min_instances: int = Field(0, ge=0, le=1000)
    max_instances: int = Field(10, ge=1, le=1000)
    buffer_instances: int = Field(0, ge=0, le=1000)
    concurrency: Literal[1] = 1
    idle_timeout_seconds: float = Field(300, ge=0, le=86_400)
    max_queue: int = Field(1000, ge=0, le=100_000)
    recycle_after_invocations: int | None = Field(None, ge=1)
    recycle_after_seconds: float | None = Field(None, gt=0)
    recycle_memory_growth_mb: int | None = Field(None, ge=1)
    warmup_event: Any = None
    hooks: Hooks = Hooks()
    auth: Literal["key", "public"] = "key"
    cleanup_on_exit: bool = False
    labels: Labels = {}
    python: Annotated[str, StringConstraints(pattern=patterns.PYTHON_MINOR)] | None = None
    """The Python minor version that pickled the bundle, where it was pickled: refused where the image's differs."""

    _environment_size = field_validator("environment", "secrets")(_environment_size)


class FunctionCreate(FunctionSpec):
    name: Name
    requirements: list[AskedRequirement] = Field(default=[], max_length=500)


class FunctionUpdate(Model):
    """A PUT: the fields given replace those of the newest version, the others stay. Makes a new version."""

    handler: Handler | None = None
    bundle_id: Annotated[str, StringConstraints(pattern=patterns.BUNDLE_ID)] | None = None
    source: str | None = None
    requirements: list[AskedRequirement] | None = Field(None, max_length=500)
    description: str | None = None
    memory_limit_mb: int | None = None
    cpu_limit_percent: int | None = None
    pids_limit: int | None = None
    timeout_seconds: float | None = None
    environment: Environment | None = None
    secrets: Environment | None = None
    network: Literal["egress", "none"] | None = None
    volumes: list[Attachment] | None = None
    result_limit_mb: int | None = None
    min_instances: int | None = None
    max_instances: int | None = None
    buffer_instances: int | None = None
    idle_timeout_seconds: float | None = None
    max_queue: int | None = None
    recycle_after_invocations: int | None = None
    recycle_after_seconds: float | None = None
    recycle_memory_growth_mb: int | None = None
    warmup_event: Any = None
    hooks: Hooks | None = None
    auth: Literal["key", "public"] | None = None
    cleanup_on_exit: bool | None = None
    labels: Labels | None = None
    python: str | None = None

    _environment_size = field_validator("environment", "secrets")(_environment_size)


class SnapshotInfo(Record):
    state: Literal["none", "creating", "ready", "error"] = "none"
    size_bytes: int | None = None
    taken_at: str | None = None
    reason: str | None = None


class StartPath(Record):
    """One way to start an instance, and, where it is not to be had, why not."""

    kind: Literal["fork", "restore", "boot"]
    available: bool
    reason: str | None = None


class FunctionRecord(Record):
    """The answer to every function route. Secrets' values are never in it: `secrets` lists their names."""

    function_id: str
    id: str
    tenant_id: str
    name: str
    state: str
    version: int
    current_version: int | None
    owner_node_id: str | None = None
    handler: str
    runtime: str
    image: str
    bundle_id: str | None
    layer_id: str | None = None
    requirements: list[str]
    description: str = ""
    memory_limit_mb: int
    cpu_limit_percent: int
    pids_limit: int
    timeout_seconds: float
    environment: dict[str, str]
    secrets: list[str]
    network: str
    volumes: list[str] = []
    result_limit_mb: int
    min_instances: int
    max_instances: int
    buffer_instances: int
    concurrency: int
    idle_timeout_seconds: float
    max_queue: int
    recycle_after_invocations: int | None = None
    recycle_after_seconds: float | None = None
    recycle_memory_growth_mb: int | None = None
    warmup_event: Any = None
    auth: str
    cleanup_on_exit: bool
    hooks: Hooks = Hooks()
    labels: dict[str, str]
    python: str | None = None
    """The Python minor version that pickled the bundle, where it was pickled."""
    url: str
    created_at: str
    updated_at: str
    last_invoked_at: str | None = None
    invocation_count: int = 0
    error_count: int = 0
    error_message: str | None = None
    snapshot: SnapshotInfo = SnapshotInfo()
    start_paths: list[StartPath] = []
    build: dict[str, float] = {}
    """Milliseconds of the current version's build by stage: bundle, layer, boot, import, snapshot."""


class PoolInstance(Record):
    instance_id: str
    version: int
    state: str
    start: str
    started_at: float
    invocations: int


class PoolRecord(Record):
    function_id: str
    warming_count: int
    ready_count: int
    busy_count: int
    recycling_count: int
    terminating_count: int
    total_count: int
    queued_count: int = 0
    instances: list[PoolInstance] = []
