"""One node's containers of users: the spawner makes their sandboxes, their own init does the rest.

Implements runtime.containers.api.Containers. Not here: records, names, policies, and one call at a time for each
container (`pool.containers`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from quilt_fn.errors import ContainerNotRunning, ImageNotFound, InvalidValue, QuiltError, VolumeNotFound
from runtime.containers.api import Containers, ContainerSpec
from runtime.containers.live import Live
from runtime.spawner_client import SpawnerClient, SpawnerFailed
from runtime.volumes.archives import ARCHIVE_TIMEOUT_S, Archives, Ask
from runtime.volumes.store import told

log = logging.getLogger(__name__)

STOP_LOOK_S = 0.02
USAGE = ("memory_bytes", "memory_peak_bytes", "cpu_seconds", "pids", "oom_kills")
START_TIMEOUT_S = 30.0
ADOPTED_AT_ONCE = 16
HINT = "`quilt images list` shows what there is"


class NodeContainers:
    """See runtime.containers.api.Containers for the contract of each method."""

    def __init__(self, spawner: SpawnerClient, has_image: Callable[[str], bool]) -> None:
        self._spawner = spawner
        self._has_image = has_image
        self._archives = Archives()
        self._live: dict[str, Live] = {}
        self._stopping: set[str] = set()
        self._gone: list[Callable[[str, str], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, container_id: str) -> Live | None:
        return self._live.get(container_id)

    def on_gone(self, callback: Callable[[str, str], None]) -> None:
        self._gone.append(callback)

    async def start(self, spec: ContainerSpec) -> Live:
        try:
            answer, fds = await self._spawner.request(
                "start", container=spec.container_id, tenant=spec.tenant_id, image=spec.image, hostname=spec.hostname,
                memory_mb=spec.memory_mb, cpu_percent=spec.cpu_percent, pids=spec.pids, network=spec.network,
                strict=spec.strict, volumes=[[each.volume_id, each.target, each.read_only] for each in spec.attached],
                timeout_s=START_TIMEOUT_S,
            )  # fmt: skip
        except SpawnerFailed as error:
            what = (error.details or {}).get("what")
            if what == "volume":
                raise VolumeNotFound(error.message) from error
            if what == "target":
                raise InvalidValue(error.message) from error
            if error.kind == "absent":
                hint = f"`quilt images build {spec.image}` builds it" if what == "build" else HINT
                raise ImageNotFound(error.message, hint=hint) from error
            raise
        return self._joined(spec.container_id, spec.tenant_id, answer, fds)

    def _joined(self, container_id: str, tenant_id: str, answer: Mapping[str, Any], fds: list[int]) -> Live:
        control, pidfd, events = fds

        async def rejoin() -> socket.socket:
            _, (again, *rest) = await self._spawner.request("rejoin", container=container_id, tenant=tenant_id)
            for fd in rest:
                os.close(fd)
            return socket.socket(fileno=again)

        live = Live(
            container_id, tenant_id, answer["pid"], answer["address"], control, pidfd, events, rejoin, self._init_ended
        )
        self._live[container_id] = live
        return live

    async def stop(self, container_id: str, timeout_s: float) -> None:
        self._stopping.add(container_id)
        try:
            live = self._live.get(container_id)
            if live is not None and timeout_s > 0:
                await self._end_gently(live, timeout_s)
            await self._spawner.request("halt", container=container_id)
            await self._forget(container_id)
        finally:
            self._stopping.discard(container_id)

    async def _end_gently(self, live: Live, timeout_s: float) -> None:
        """SIGTERM to all but init, until nothing else runs or the time is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                await self._spawner.request("thaw", container=live.container_id)
                live.froze(False)
                if live.link is None:
                    return
                await live.link.kill(-1, signal.SIGTERM)
                while live.link is not None and (await live.link.status()).others:
                    await live.ended(STOP_LOOK_S)
        except (TimeoutError, QuiltError):
            return  # what does not end, or does not answer, is killed next

    async def delete(self, container_id: str) -> None:
        self._stopping.add(container_id)
        try:
            await self._spawner.request("remove", container=container_id)
            await self._forget(container_id)
        finally:
            self._stopping.discard(container_id)

    async def pause(self, container_id: str) -> None:
        await self._of_running("freeze", container_id)
        self._froze(container_id, True)

    async def resume(self, container_id: str) -> None:
        await self._of_running("thaw", container_id)
        self._froze(container_id, False)

    def _froze(self, container_id: str, frozen: bool) -> None:
        live = self._live.get(container_id)
        if live is not None:  # else its init has ended meanwhile
            live.froze(frozen)

    async def resize(self, container_id: str, memory_mb: int, cpu_percent: int, pids: int) -> None:
        try:
            await self._of_running("resize", container_id, memory_mb=memory_mb, cpu_percent=cpu_percent, pids=pids)
        except SpawnerFailed as error:
            if error.kind == "refused":
                raise InvalidValue(error.message, details=error.details) from error
            raise

    async def unpack(self, container_id: str, path: str, strip: int, body: AsyncIterator[bytes]) -> tuple[int, int]:
        done = await self._archives.into(self._archive("unpack_into", container_id, path=path, strip=strip), body)
        return int(done["entries"]), int(done["bytes"])

    def pack(self, container_id: str, path: str, *, zipped: bool) -> AsyncIterator[bytes]:
        return self._archives.out_of(self._archive("pack_from", container_id, path=path, zipped=zipped))

    def _archive(self, op: str, container_id: str, **how: Any) -> Ask:
        async def ask(fds: list[int]) -> dict[str, Any]:
            try:
                answer, _ = await self._spawner.request(
                    op, fds, container=container_id, timeout_s=ARCHIVE_TIMEOUT_S, **how
                )
            except SpawnerFailed as error:
                raise told(error) from error
            return answer

        return ask

    async def usage(self, container_id: str) -> dict[str, Any]:
        answer = await self._of_running("usage", container_id)
        return {name: answer[name] for name in USAGE}

    async def processes(self, container_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        last = 0
        while True:
            answer = await self._of_running("processes", container_id, after=last)
            found += answer["processes"]
            last = answer["last"]
            if not last:
                return sorted(found, key=lambda process: int(process["pid"]))

    async def _of_running(self, op: str, container_id: str, **fields: Any) -> dict[str, Any]:
        try:
            return (await self._spawner.request(op, container=container_id, **fields))[0]
        except SpawnerFailed as error:
            if error.kind == "absent":
                raise ContainerNotRunning("the container does not run", details={"state": "exited"}) from error
            raise

    async def adopt(self, tenant_ids: Mapping[str, str]) -> dict[str, str]:
        found: list[dict[str, Any]] = []
        more = True
        while more:
            answer, _ = await self._spawner.request("machines", after=found[-1]["container"] if found else "")
            found += answer["machines"]
            more = answer["more"]
        room = asyncio.Semaphore(ADOPTED_AT_ONCE)
        reasons: dict[str, str] = {}

        async def settle(container_id: str, tenant_id: str, alive: bool) -> None:
            async with room:
                if tenant_ids.get(container_id) != tenant_id:
                    # A record is there before its machine, and goes after it: so it is the records that were lost,
                    # or another Redis was named. Nobody's files are removed for that.
                    log.error(
                        "machine %s of %s is in no record: it is stopped, its files stay", container_id, tenant_id
                    )
                    await self._spawner.request("halt", container=container_id)
                    return
                if alive and container_id not in self._live:
                    with contextlib.suppress(SpawnerFailed):  # it has ended since, or can't be spoken to: it goes
                        joined, fds = await self._spawner.request("rejoin", container=container_id, tenant=tenant_id)
                        self._joined(container_id, tenant_id, joined, fds)
                if container_id not in self._live:
                    reasons[container_id] = _reason(
                        (await self._spawner.request("halt", container=container_id))[0], "platform_ended"
                    )

        await asyncio.gather(*(settle(each["container"], each["tenant"], each["alive"]) for each in found))
        return reasons

    def _init_ended(self, live: Live) -> None:
        """By itself, unless we are stopping it."""
        if live.container_id in self._stopping or self._live.get(live.container_id) is not live:
            return
        task = asyncio.create_task(self._after_init(live), name=f"end of {live.container_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _after_init(self, live: Live) -> None:
        try:
            reason = _reason((await self._spawner.request("halt", container=live.container_id))[0], "init_died")
        except QuiltError as error:
            log.warning("container %s: why it ended can't be told: %s", live.container_id, error.message)
            reason = "init_died"
        if self._live.get(live.container_id) is not live:
            return  # it was stopped or deleted meanwhile
        del self._live[live.container_id]
        for callback in self._gone:  # in the same turn: nobody finds it gone without a reason
            callback(live.container_id, reason)
        await live.close()

    async def _forget(self, container_id: str) -> None:
        live = self._live.pop(container_id, None)
        if live is not None:
            await live.close()

    async def close(self) -> None:
        """Let go of all of them: they run on, for the next node process to adopt."""
        for task in list(self._tasks):
            await asyncio.wait([task])
        for container_id in list(self._live):
            await self._forget(container_id)

    def has_image(self, name: str) -> bool:
        return self._has_image(name)

    def health(self) -> str | None:
        """Why containers can't be started now; None where they can."""
        return None if self._spawner.connected else "the spawner is not connected; it is being restarted"


def _reason(halted: Mapping[str, Any], without_group: str) -> str:
    """Why a container's init has ended, from what `halt` found; `without_group` where nothing was left of it."""
    if halted["oom_kills"]:
        return "out_of_memory"
    return "init_died" if halted["ran"] else without_group


if TYPE_CHECKING:

    def _are_containers(node: NodeContainers) -> Containers:
        return node
