"""Live templates: boot one, load a handler into it, restore it, snapshot it, fork it, let it go.

Not here: which way an instance is started and what is tried next (`versions`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from quilt_fn.errors import BuildFailed, SpawnerError
from quilt_fn.model.common import new_id
from quilt_fn.states import StartKind
from runtime.api import VersionSpec
from runtime.spawner_client import SpawnerClient, SpawnerFailed
from runtime.template_link import ForkFailed, TemplateGone, TemplateLink

LOAD_TIMEOUT_S = 300.0
OUTPUT_LIMIT = 8 * 1024
"""Of what is printed while a handler is loaded, the last so many bytes are kept."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a template said after it loaded a handler. `shared`: what forks would share, so that it can't be forked.
    `output`: what was printed meanwhile; nothing where it was loaded by an earlier process or comes from a snapshot.
    """

    ms: dict[str, float]
    shared: tuple[str, ...]
    undumpable: tuple[str, ...]
    wants_request: bool
    output: str = ""

    @classmethod
    def from_answer(cls, raw: dict[str, Any]) -> Loaded:
        return cls(
            ms={str(k): float(v) for k, v in dict(raw.get("ms", {})).items()},
            shared=tuple(str(s)[:500] for s in list(raw.get("shared", []))[:20]),
            undumpable=tuple(str(s)[:500] for s in list(raw.get("undumpable", []))[:20]),
            wants_request=bool(raw.get("wants_request")),
        )


@dataclass(slots=True, eq=False)
class Template:
    """A container whose template answers. Ends by `drop` (its instances go on) or `delete` (with them)."""

    container_id: str
    spawner: SpawnerClient
    link: TemplateLink
    pidfd: int
    gauge: int
    came_by: StartKind = StartKind.BOOT
    loaded: Loaded | None = None
    instances: int = 0
    used_at: float = field(default_factory=time.monotonic)
    dropped: bool = False
    deleted: asyncio.Task[int] | None = None

    async def fork(self, instance_id: str, fds: list[int], on_exit: Callable[[int], None]) -> int:
        self.used_at = time.monotonic()
        return await self.link.fork(instance_id, fds, on_exit)

    def memory_bytes(self) -> int:
        return int(os.pread(self.gauge, 32, 0)) if self.gauge >= 0 else 0

    async def drop(self) -> None:
        """End the template's process alone; the container goes when its last instance has. Idempotent."""
        if self.dropped:
            return
        self.dropped = True
        self.link.leave()
        self.link.close()
        if self.instances == 0:
            await self.delete()

    async def delete(self) -> int:
        """End the container and all in it; how many of its processes the kernel killed for memory. Idempotent."""
        self.dropped = True
        if self.deleted is None:
            self.deleted = asyncio.create_task(self._delete(), name=f"delete {self.container_id}")
        return await asyncio.shield(self.deleted)

    async def _delete(self) -> int:
        self.link.close()
        for fd in (self.pidfd, self.gauge):
            os.close(fd)
        self.pidfd = self.gauge = -1
        answer, _ = await self.spawner.request("delete", container=self.container_id)
        return int(answer["oom_kills"])

    async def instance_ended(self) -> None:
        self.instances -= 1
        if self.dropped and self.instances == 0:
            await self.delete()


def limits(spec: VersionSpec) -> dict[str, Any]:
    return {"memory_mb": spec.memory_limit_mb, "cpu_percent": spec.cpu_limit_percent, "pids": spec.pids_limit}


async def _made(spawner: SpawnerClient, op: str, name: str, **fields: Any) -> list[int]:
    """The descriptors of the container `name`. Raises SpawnerError.

    Where the caller is cancelled, what the spawner is making is waited for and deleted: nobody would know of it. So is
    what its child had half made when it was killed.
    """
    making = asyncio.create_task(spawner.request(op, container=name, **fields), name=f"{op} {name}")
    try:
        return (await asyncio.shield(making))[1]
    except SpawnerFailed as error:
        if error.kind == "died":
            with contextlib.suppress(SpawnerError):
                await spawner.request("delete", container=name)
        raise
    except asyncio.CancelledError:
        with contextlib.suppress(SpawnerError):
            for fd in (await making)[1]:
                os.close(fd)
            await spawner.request("delete", container=name)
        raise


async def boot(spawner: SpawnerClient, spec: VersionSpec, layer: str | None, label: str) -> Template:
    """A container of `spec` whose template stands, with nothing loaded. Raises SpawnerError."""
    name = new_id("ctr")
    fds = await _made(
        spawner, "boot", name, tenant=spec.tenant_id, bundle=spec.bundle_id, layer=layer, network=spec.network,
        label=label, **limits(spec),
    )  # fmt: skip
    return _template(name, spawner, fds)


async def restore(
    spawner: SpawnerClient, spec: VersionSpec, snapshot: str, label: str, known: Loaded | None
) -> Template:
    """The template of a snapshot, live again; it is only asked what it holds where that is not `known`. Raises
    SpawnerError.
    """
    name = new_id("ctr")
    fds = await _made(spawner, "restore", name, snapshot=snapshot, network=spec.network, label=label, **limits(spec))
    template = _template(name, spawner, fds)
    template.came_by = StartKind.RESTORE
    template.loaded = known
    return template if known is not None else await greet(template)


async def adopt(spawner: SpawnerClient, container_id: str) -> Template:
    """A template that an earlier node process left. Raises SpawnerError, TemplateGone."""
    _, fds = await spawner.request("connect", container=container_id, timeout_s=10.0)
    return await greet(_template(container_id, spawner, fds))


def _template(name: str, spawner: SpawnerClient, fds: list[int]) -> Template:
    control, pidfd, gauge = fds
    return Template(name, spawner, TemplateLink(control), pidfd, gauge)


async def greet(template: Template) -> Template:
    """Ask what is loaded. Raises TemplateGone, and has deleted it then."""
    try:
        raw = await template.link.hello()
        if isinstance(raw.get("loaded"), dict):
            template.loaded = Loaded.from_answer(raw["loaded"])
    except asyncio.CancelledError:
        await template.delete()
        raise
    except (TemplateGone, TimeoutError) as error:
        await template.delete()
        raise TemplateGone(f"the template does not answer: {error}") from None
    return template


async def load(template: Template, spec: VersionSpec) -> Loaded:
    """Import the handler, run hooks and warm-up. Raises BuildFailed with the traceback and what was printed, also by a
    process that did not live to say so; the template is deleted then.
    """
    try:
        output = await template.link.output()
    except (TemplateGone, TimeoutError) as error:
        await template.delete()
        raise SpawnerError(f"the template ended before it loaded anything: {error}") from None
    try:
        raw = await _load(template, spec)
        template.loaded = replace(Loaded.from_answer(raw), output=_end_of(output))
    except BuildFailed as error:
        error.details = {**(error.details or {}), "output": _end_of(output)}
        raise
    finally:
        os.close(output)
    return template.loaded


def _end_of(output: int) -> str:
    size = os.fstat(output).st_size
    return os.pread(output, OUTPUT_LIMIT, max(0, size - OUTPUT_LIMIT)).decode(errors="replace")


async def _load(template: Template, spec: VersionSpec) -> dict[str, Any]:
    message: dict[str, Any] = {
        "handler": spec.handler,
        "environment": dict(spec.environment),
        "before_snapshot": list(spec.before_snapshot),
        "after_restore": list(spec.after_restore),
    }
    if spec.warmup_event is not None:
        message["warmup"] = spec.warmup_event
    try:
        raw = await template.link.load(message, LOAD_TIMEOUT_S)
    except TemplateGone:
        kills = await template.delete()
        why = (
            f"it used more than its memory limit of {spec.memory_limit_mb} MB; raise memory_limit_mb"
            if kills
            else "its process ended (it exited, was killed, or crashed)"
        )
        raise BuildFailed(f"the handler could not be imported: {why}", details={"stage": "import"}) from None
    except TimeoutError:
        await template.delete()
        text = f"importing the handler took over {LOAD_TIMEOUT_S:g} s"
        raise BuildFailed(text, details={"stage": "import", "limit": "import_timeout"}) from None
    if not raw.get("ok"):
        await template.delete()
        stage = str(raw.get("stage", "import"))
        hint = None
        if raw.get("type") == "KeyError" and spec.secrets:
            hint = "secrets are there only in instances; read them in the handler or in an after_restore hook"
        raise BuildFailed(
            f"{_STAGES.get(stage, stage)} failed: {raw.get('type')}: {raw.get('message')}"[:4000],
            details={"stage": stage, "traceback": str(raw.get("traceback", ""))[:32_000]},
            hint=hint,
        )
    return raw


_STAGES = {"import": "importing the handler", "hook": "a before_snapshot hook", "warmup": "the warm-up call"}


async def snapshot(template: Template, snapshot_id: str, *, dump: bool) -> int:
    """Keep the template as `snapshot_id`, and talk to it again; the bytes of its images.

    With `dump` false only its writable layer is kept, for kits. Raises SpawnerError; the template may be lost then.
    """
    await template.link.quiet()
    answer, fds = await template.spawner.request(
        "snapshot", container=template.container_id, snapshot=snapshot_id, dump=dump
    )
    template.link = TemplateLink(fds[0])
    return int(answer["size_bytes"])


__all__ = ["ForkFailed", "Loaded", "Template", "TemplateGone", "adopt", "boot", "limits", "load", "restore", "snapshot"]
