"""Services that a container publishes: kept in Redis, looked up from memory, gone with their time or their container.

Implements pool.network.api.Published. Not here: the requests themselves (`gateway.ingress`).
"""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import hmac
import logging
import secrets
from typing import Any

import orjson

from pool import keys_in_redis as keys
from pool.clock import Clock, iso
from pool.containers.entry import ContainerEntry
from pool.containers.registry import ContainerRegistry
from pool.network.api import Door
from pool.network.directory import ContainerDirectory
from pool.network.service import connected
from pool.paging import newest_first
from pool.redis_link import RedisLink
from quilt_fn.errors import (
    Forbidden,
    NameTaken,
    QuiltError,
    QuotaExceeded,
    ServiceNotFound,
    Unauthenticated,
    Unavailable,
)
from quilt_fn.model.common import new_id
from quilt_fn.model.network import ServiceCreate, ServiceRecord
from quilt_fn.states import ContainerState

log = logging.getLogger(__name__)

LOOK_S = 5.0
EACH = 64
"""Services of one container."""


class PublishedServices:
    def __init__(
        self, link: RedisLink, registry: ContainerRegistry, directory: ContainerDirectory, clock: Clock
    ) -> None:
        self._link = link
        self._registry = registry
        self._directory = directory
        self._clock = clock
        self._by_id: dict[str, dict[str, Any]] = {}
        self._creating = asyncio.Lock()
        self._gone = asyncio.Event()
        registry.on_change.append(self._container_changed)

    async def load(self) -> None:
        """At a node's start, after the containers. Raises RegistryUnavailable."""
        found = await self._link.run(self._link.client.hgetall(keys.services()))
        self._by_id = {service_id.decode(): orjson.loads(packed) for service_id, packed in found.items()}
        self._gone.set()

    async def create(self, tenant_id: str, container_id: str, body: ServiceCreate) -> ServiceRecord:
        connected(self._registry, tenant_id, container_id)
        token = f"lnt_{secrets.token_hex(16)}" if body.auth_mode == "token" else None
        now = self._clock.wall()
        kept = {
            "tenant_id": tenant_id, "container_id": container_id, "name": body.name, "target_port": body.target_port,
            "auth_mode": body.auth_mode, "token_sha256": _digest(token) if token else None, "created_at": iso(now),
            "expires_at": now + body.ttl_secs if body.ttl_secs is not None else None,
        }  # fmt: skip
        service_id = new_id("lnx")
        async with self._creating:
            theirs = [each for each in self._live().values() if each["container_id"] == container_id]
            if any(each["name"] == body.name for each in theirs):
                raise NameTaken(f"the container publishes a service {body.name!r} already", hint="Delete it first.")
            if len(theirs) >= EACH:
                details = {"quota": "services", "limit": EACH, "used": len(theirs), "asked": 1}
                raise QuotaExceeded(f"a container publishes at most {EACH} services", details=details)
            async with self._link.undone_by(lambda: self._remove(service_id)):
                await self._link.run(self._link.client.hset(keys.services(), service_id, orjson.dumps(kept).decode()))
            self._by_id[service_id] = kept
        if self._registry.find(tenant_id, container_id) is None:  # deleted meanwhile
            self._gone.set()
        return _record(service_id, kept, token)

    def list(
        self, tenant_id: str, container_id: str, limit: int, cursor: str | None
    ) -> tuple[builtins.list[ServiceRecord], str | None]:
        self._registry.get(tenant_id, container_id)
        found = [(i, kept) for i, kept in self._live().items() if kept["container_id"] == container_id]
        page, after = newest_first(found, lambda each: f"{each[1]['created_at']}~{each[0]}", limit, cursor)
        return [_record(i, kept) for i, kept in page], after

    async def delete(self, tenant_id: str, container_id: str, service_id: str) -> None:
        self._registry.get(tenant_id, container_id)
        kept = self._live().get(service_id)
        if kept is None or kept["container_id"] != container_id:
            raise ServiceNotFound(f"no service {service_id}", hint="`quilt services list` shows a container's")
        await self._remove(service_id)

    def door(self, service_id: str, tokens: builtins.list[str]) -> Door:
        kept = self._live().get(service_id)
        if kept is None:
            raise ServiceNotFound("there is no such service, or its time is over")
        expected = kept["token_sha256"]
        if expected is not None:
            if not tokens:
                raise Unauthenticated(
                    "this service needs its token", hint="Send it as X-Quilt-Token, as a bearer token, or as ?token=."
                )
            if not any(hmac.compare_digest(expected, _digest(token)) for token in tokens):
                raise Forbidden("this is not the service's token")
        entry = self._registry.find(kept["tenant_id"], kept["container_id"])
        address = self._directory.address_of(kept["tenant_id"], entry.name) if entry is not None else None
        if entry is None or address is None or entry.state is not ContainerState.RUNNING:
            raise Unavailable(
                "the service's container does not run", details={"state": entry.state if entry else None}, retry_after=1
            )
        return Door(service_id, address, int(kept["target_port"]))

    async def run(self) -> None:
        """Remove what has lived its time or lost its container, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._gone.wait()
            except TimeoutError:
                pass
            self._gone.clear()
            live = self._live()
            for service_id, kept in builtins.list(self._by_id.items()):
                there = self._registry.find(kept["tenant_id"], kept["container_id"])
                if there is not None and service_id in live:
                    continue
                try:
                    await self._remove(service_id)
                except QuiltError as error:
                    log.warning("service %s could not be removed, and stays for now: %s", service_id, error.message)

    def _container_changed(self, entry: ContainerEntry) -> None:
        if entry.state is ContainerState.DELETED:
            self._gone.set()

    def _live(self) -> dict[str, dict[str, Any]]:
        now = self._clock.wall()
        return {i: k for i, k in self._by_id.items() if k["expires_at"] is None or k["expires_at"] > now}

    async def _remove(self, service_id: str) -> None:
        await self._link.run(self._link.client.hdel(keys.services(), service_id))
        self._by_id.pop(service_id, None)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _record(service_id: str, kept: dict[str, Any], token: str | None = None) -> ServiceRecord:
    expires = kept["expires_at"]
    return ServiceRecord(
        service_id=service_id, container_id=kept["container_id"], name=kept["name"], target_port=kept["target_port"],
        auth_mode=kept["auth_mode"], path=f"/linx/{service_id}/", created_at=kept["created_at"],
        expires_at=iso(expires) if expires is not None else None, token=token,
    )  # fmt: skip
