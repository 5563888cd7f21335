"""Says as events what the pool's parts do: functions, pools, invocations, containers, volumes, operations.

Not here: the log of events (`pool.events`). What is costly is only said while somebody listens; nothing of it is on the
hot path: invocations are told of as their records are packed, and pools are looked at once a second.
"""

from __future__ import annotations

import asyncio
import logging

from pool.api import Events
from pool.containers.entry import ContainerEntry
from pool.ended import Ended
from pool.events import Events as EventLog
from pool.functions import FunctionEntry
from pool.pools import Pools
from pool.registry import Registry
from pool.shapes import pool_record
from pool.volumes.registry import Entry, VolumeRegistry
from quilt_fn.model.operation import OperationRecord

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


def operation_update(events: Events, tenant_id: str, record: OperationRecord) -> None:
    """The whole operation, and its target's id as listeners filter by it: a container's as `container_id`."""
    data = record.model_dump(mode="json")
    if record.target_resource_type in ("container", "function", "volume"):
        data[f"{record.target_resource_type}_id"] = record.target_resource_id
    events.publish(tenant_id, "OperationUpdate", data)


class Announcer:
    def __init__(self, events: EventLog, registry: Registry, volumes: VolumeRegistry, pools: Pools) -> None:
        self._events = events
        self._registry = registry
        self._volumes = volumes
        self._pools = pools

    def function(self, entry: FunctionEntry) -> None:
        gone = self._registry.find(entry.tenant_id, entry.function_id) is None
        data = {
            "function_id": entry.function_id,
            "name": entry.name,
            "state": "deleted" if gone else str(entry.state),
            "version": entry.newest,
            "current_version": entry.current or None,
        }
        self._events.publish(entry.tenant_id, "function_update", data)

    def container(self, entry: ContainerEntry) -> None:
        kept = entry.kept
        data = {
            "container_id": entry.container_id,
            "name": entry.name,
            "state": str(entry.state),
            "exit_code": kept.exit_code,
            "exit_reason": kept.exit_reason,
            "restart_count": kept.restart_count,
        }
        self._events.publish(entry.tenant_id, "container_update", data)

    def volume(self, entry: Entry) -> None:
        state = str(entry.state) if self._volumes.holds(entry.volume_id) else "deleted"
        data = {"volume_id": entry.volume_id, "name": entry.name, "state": state}
        self._events.publish(entry.tenant_id, "volume_update", data)

    def invocation(self, ended: Ended) -> None:
        listening = self._events.listening()
        for tenant_id in listening:
            if self._registry.find(tenant_id, ended.function_id) is not None:
                data = {
                    "function_id": ended.function_id,
                    "function_name": ended.function_name,
                    "version": ended.version,
                    "invocation_id": ended.invocation_id,
                    "status": str(ended.status),
                    "duration_ms": round((ended.ended_at - ended.started_at) * 1000, 3),
                    "start": ended.start and str(ended.start),
                }
                self._events.publish(tenant_id, "invocation", data)

    async def look(self) -> None:
        """Once a second, until cancelled: tell of each pool whose counts have changed since it was last looked at."""
        seen: dict[str, dict[str, int]] = {}
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            listening = set(self._events.listening())
            if not listening:
                seen.clear()
                continue
            now: dict[str, dict[str, int]] = {}
            for entry in self._registry.all():
                if entry.tenant_id in listening:
                    record = pool_record(entry.function_id, self._pools.of(entry.function_id))
                    counts = now[entry.function_id] = record.model_dump(exclude={"function_id", "instances"})
                    if seen.get(entry.function_id) != counts:
                        data = {"function_id": entry.function_id, "name": entry.name, **counts}
                        self._events.publish(entry.tenant_id, "pool_update", data)
            seen = now
