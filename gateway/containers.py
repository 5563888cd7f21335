"""The routes of containers: their lives, what they use, and what they wrote.

Not here: commands in them (`gateway.exec`), terminals, volumes, networks.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from aiohttp import web
from pydantic import Field

from gateway import body, commands, container_archives, examples, health, pages
from gateway.context import Ask, answer
from gateway.errors import invalid_field
from gateway.lines import send_lines
from gateway.operations import accepted
from gateway.route import FULL, Concern, Query, Route
from pool.api import Report
from quilt_fn.errors import QuiltError
from quilt_fn.model.common import Model
from quilt_fn.model.container import ContainerCreate, ContainerRecord, Readiness
from quilt_fn.model.function import Environment, EnvironmentName, Name
from quilt_fn.model.operation import Accepted
from quilt_fn.states import ContainerState

WAIT_DEFAULT_S, WAIT_MAX_S = 30.0, 600.0
STOP_TIMEOUT_S = 10.0
START_TIMEOUT_S = 60.0


class Batch(Model):
    items: list[ContainerCreate] = Field(min_length=1, max_length=200)


class Stop(Model):
    timeout_s: float = Field(STOP_TIMEOUT_S, ge=0, le=600)
    """Between SIGTERM and SIGKILL."""


class Rename(Model):
    new_name: Name


class EnvironmentChange(Model):
    """Merged into what is there; null takes a name out."""

    environment: dict[EnvironmentName, str | None]


class EnvironmentWhole(Model):
    environment: Environment


async def create(ask: Ask) -> web.StreamResponse:
    spec = body.parse(ContainerCreate, await body.read(ask.request, ask.services.max_body_bytes))
    return answer(await ask.platform.containers.create(ask.tenant_id, spec), 201)


async def list_(ask: Ask) -> web.StreamResponse:
    state = ask.request.query.get("state")
    if state is not None and state not in list(ContainerState):
        raise invalid_field("state", f"one of {', '.join(ContainerState)}", state)
    labels: dict[str, str | None] = {}
    for text in ask.request.query.getall("label", []):
        name, has_value, value = text.partition("=")
        labels[name] = value if has_value else None
    found = await ask.platform.containers.list(ask.tenant_id, *pages.asked(ask), state, labels)
    return pages.page("containers", found)


async def get(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.containers.get(ask.tenant_id, ask.path("container_id")))


async def by_name(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.containers.by_name(ask.tenant_id, ask.path("name")))


async def ready(ask: Ask) -> web.StreamResponse:
    found = await ask.platform.containers.get(ask.tenant_id, ask.path("container_id"))
    return answer(found.model_dump(mode="json", include=set(Readiness.model_fields)))


async def wait(ask: Ask) -> web.StreamResponse:
    wanted = ask.request.query.get("state", ContainerState.EXITED)
    if wanted not in list(ContainerState):
        raise invalid_field("state", f"one of {', '.join(ContainerState)}", wanted)
    timeout_s = ask.seconds("timeout_s", WAIT_DEFAULT_S, WAIT_MAX_S)
    return answer(
        await ask.platform.containers.wait(ask.tenant_id, ask.path("container_id"), ContainerState(wanted), timeout_s)
    )


async def metrics(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.containers.usage(ask.tenant_id, ask.path("container_id")))


async def processes(ask: Ask) -> web.StreamResponse:
    return answer({"processes": await ask.platform.containers.processes(ask.tenant_id, ask.path("container_id"))})


async def signal_process(ask: Ask) -> web.StreamResponse:
    pid = ask.path("pid")
    if not (pid.isascii() and pid.isdigit() and len(pid) < 9 and int(pid) > 0):
        raise invalid_field("pid", "a process's number in the container", pid)
    number = _signal(ask.request.query.get("signal", "TERM"))
    await ask.platform.containers.signal(ask.tenant_id, ask.path("container_id"), int(pid), number)
    return answer({"success": True})


def _signal(text: str) -> int:
    known = {name.removeprefix("SIG"): int(value) for name, value in signal.Signals.__members__.items()}
    found = known.get(text.upper().removeprefix("SIG"))
    if found is None and text.isascii() and text.isdigit() and len(text) < 4 and 0 < int(text) < signal.NSIG:
        found = int(text)
    if found is None:
        raise invalid_field("signal", "a signal's name or number, such as TERM or 15", text)
    return found


async def environment(ask: Ask) -> web.StreamResponse:
    return answer({"environment": ask.platform.containers.environment(ask.tenant_id, ask.path("container_id"))})


async def change_environment(ask: Ask) -> web.StreamResponse:
    wanted = body.parse(EnvironmentChange, await body.read(ask.request, ask.services.max_body_bytes))
    return await _set_environment(ask, wanted.environment, replace=False)


async def replace_environment(ask: Ask) -> web.StreamResponse:
    wanted = body.parse(EnvironmentWhole, await body.read(ask.request, ask.services.max_body_bytes))
    return await _set_environment(ask, dict(wanted.environment), replace=True)


async def _set_environment(ask: Ask, values: dict[str, Any], *, replace: bool) -> web.StreamResponse:
    found = await ask.platform.containers.set_environment(
        ask.tenant_id, ask.path("container_id"), values, replace=replace
    )
    return answer({"environment": found})


async def logs(ask: Ask) -> web.StreamResponse:
    """NDJSON, oldest first; with `follow` until the command has ended, the client leaves or the node goes."""
    follow = ask.flag("follow")
    lines = ask.platform.containers.logs(
        ask.tenant_id, ask.path("container_id"), limit=ask.number("limit", pages.LIST_MAX, 100_000), follow=follow
    )
    return await send_lines(ask, lines, follow=follow)


async def start(ask: Ask) -> web.StreamResponse:
    return await _begin(ask, "start", ask.platform.containers.start)


async def resume(ask: Ask) -> web.StreamResponse:
    return await _begin(ask, "resume", ask.platform.containers.resume)


async def _begin(
    ask: Ask, verb: Literal["start", "resume"], work: Callable[[str, str], Awaitable[ContainerRecord]]
) -> web.StreamResponse:
    tenant_id, container_id = ask.tenant_id, ask.path("container_id")
    ask.platform.containers.check(verb, tenant_id, container_id)  # else what is plain would be an operation that fails

    async def carry_out(_report: Report) -> dict[str, Any]:
        return (await work(tenant_id, container_id)).model_dump(mode="json")

    return accepted(
        await ask.platform.operations.begin(
            tenant_id, f"container.{verb}", ("container", container_id), carry_out, timeout_s=START_TIMEOUT_S,
            cancellable=False,
        )
    )  # fmt: skip


async def batch(ask: Ask) -> web.StreamResponse:
    wanted = body.parse(Batch, await body.read(ask.request, ask.services.max_body_bytes))
    tenant_id, containers = ask.tenant_id, ask.platform.containers

    async def carry_out(report: Report) -> dict[str, Any]:
        failed: list[QuiltError] = []
        for index, spec in enumerate(wanted.items):
            report(100.0 * index / len(wanted.items), f"creating {spec.name}")
            try:
                record = await containers.create(tenant_id, spec)
            except QuiltError as error:
                failed.append(error)
                report.item(index, status="failed", error=error.message, error_code=error.error_code)
            else:
                report.item(index, status="succeeded", container_id=record.container_id)
        if len(failed) == len(wanted.items):
            text = f"none of the {len(failed)} containers was created; the first: {failed[0].message}"
            raise type(failed[0])(text, details=failed[0].details, hint=failed[0].hint)
        report(100.0, f"created {len(wanted.items) - len(failed)} of {len(wanted.items)}")
        if failed:
            report.warn(f"{len(failed)} of {len(wanted.items)} containers were not created: `items` say why")
        return {"created": len(wanted.items) - len(failed), "failed": len(failed)}

    items = [{"name": spec.name, "status": "accepted"} for spec in wanted.items]
    return accepted(
        await ask.platform.operations.begin(
            tenant_id, "container.batch", ("container", "batch"), carry_out,
            timeout_s=START_TIMEOUT_S * len(wanted.items), items=items,
        )
    )  # fmt: skip


async def stop(ask: Ask) -> web.StreamResponse:
    wanted = body.parse(Stop, await body.read(ask.request, ask.services.max_body_bytes))
    return answer(await ask.platform.containers.stop(ask.tenant_id, ask.path("container_id"), wanted.timeout_s))


async def kill(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.containers.stop(ask.tenant_id, ask.path("container_id"), 0))


async def pause(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.containers.pause(ask.tenant_id, ask.path("container_id")))


async def rename(ask: Ask) -> web.StreamResponse:
    wanted = body.parse(Rename, await body.read(ask.request, ask.services.max_body_bytes))
    return answer(await ask.platform.containers.rename(ask.tenant_id, ask.path("container_id"), wanted.new_name))


async def delete(ask: Ask) -> web.StreamResponse:
    await ask.platform.containers.delete(ask.tenant_id, ask.path("container_id"))
    return answer({"success": True, "container_id": ask.path("container_id")})


ONE = "/api/containers/{container_id}"
USAGE = {
    "memory_bytes": 1_048_576, "memory_peak_bytes": 2_097_152, "cpu_seconds": 0.1, "pids": 1, "oom_kills": 0,
    "memory_limit_bytes": 536_870_912, "cpu_limit_percent": 100, "pids_limit": 512,
}  # fmt: skip
ENVIRONMENT = {"environment": {"NAME": "value"}}
CONCERN = Concern(
    "containers",
    "Machines that you can have in milliseconds: a root, a writable layer, limits, a network, and commands in them.",
    (
        Route(
            "POST", "/api/containers", create, "record; running and evaluated when it answers",
            body=ContainerCreate, answers=ContainerRecord, status=201, fills=True,
        ),
        Route(
            "GET", "/api/containers", list_, "`{containers, next_cursor}`, newest first",
            answers=pages.example("containers"),
            query=(
                Query("state", "only those in this state"),
                Query("label", "`name` or `name=value`; may be given again"),
                *pages.QUERY,
            ),
        ),
        Route("GET", "/api/containers/by-name/{name}", by_name, "record", answers=ContainerRecord),
        Route("GET", ONE, get, "record, evaluated now", answers=ContainerRecord),
        Route("GET", ONE + "/ready", ready, "whether it can work: `checks` say what is missing", answers=Readiness),
        Route(
            "GET", ONE + "/wait", wait, "record, once it has the state or the time is over",
            answers=ContainerRecord,
            query=(Query("state", "exited by default"), Query("timeout_s", "30 by default, at most 600", "number")),
        ),
        Route(
            "GET", ONE + "/logs", logs, "NDJSON lines `{t, stream, text}` of its own command",
            answers="application/x-ndjson", token=True,
            query=(Query("limit", "the last so many", "integer"), 
                   Query("follow", "go on until its command has ended and does not come back by itself", "boolean")),
        ),
        Route("POST", ONE + "/start", start, "202; the operation's result is the record", answers=Accepted, status=202),
        Route("POST", ONE + "/resume", resume, "202; of a paused one", answers=Accepted, status=202),
        Route(
            "POST", "/api/containers/batch", batch, "202; each item says what became of it", body=Batch,
            answers=Accepted, status=202, fills=True,
        ),
        Route("GET", ONE + "/metrics", metrics, "what it uses, beside its limits", answers=USAGE),
        Route("GET", ONE + "/processes", processes, "`{processes}`, by its own pids", answers={"processes": []}),
        Route(
            "DELETE", ONE + "/processes/{pid}", signal_process, "`{success}`", answers={"success": True},
            query=(Query("signal", "name or number; TERM by default"),),
        ),
        Route("GET", ONE + "/env", environment, "`{environment}` of new commands", answers=ENVIRONMENT),
        Route("PATCH", ONE + "/env", change_environment, "merged; null takes a name out", body=EnvironmentChange,
              answers=ENVIRONMENT),
        Route("PUT", ONE + "/env", replace_environment, "replaced", body=EnvironmentWhole, answers=ENVIRONMENT),
        Route("POST", ONE + "/stop", stop, "record; SIGTERM, `timeout_s`, SIGKILL", body=Stop, answers=ContainerRecord),
        Route("POST", ONE + "/kill", kill, "record; SIGKILL to all of it", answers=ContainerRecord),
        Route("POST", ONE + "/pause", pause, "record; nothing in it runs until it is resumed", answers=ContainerRecord),
        Route("POST", ONE + "/rename", rename, "record", body=Rename, answers=ContainerRecord),
        *commands.ROUTES,
        *container_archives.ROUTES,
        Route("DELETE", ONE, delete, "`{success, container_id}`; what runs is killed",
              answers={"success": True, "container_id": "ctr_…"}),
    ),
    health=health.all_of(health.redis, health.spawner, health.disk),
    examples=examples.CONTAINERS,
    rules=(
        *commands.RULES,
        "A container stays alive when its command has ended: the exit code is recorded, and commands go on to work.",
        "Its `working_directory` is made at a start where it is not there. A create is refused where it can't be made.",
        "Its writable layer outlives stop and start, and a restart of the platform.",
        "A batch succeeds where at least one of its containers was created: `result` counts both kinds, and `items` "
        "say why. It fails, with the first one's reason, where none was; what was created stays in any case.",
        "The host name follows a new name at the next start.",
        "Pipes, sockets and devices in a folder are left out of its archive, and so is what is mounted in it, such as "
        "volumes and /proc, and what nobody can read of /proc/sys; one of them that `path` names is refused.",
        FULL,
    ),
    states=("CONTAINER",),
)  # fmt: skip
