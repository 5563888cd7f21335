"""API keys: made, listed, deleted, and looked up by their sha256, which is all that is kept of them.

Not here: which routes need one. All keys are cached, so that the hot path asks neither Redis nor the loop.
"""

from __future__ import annotations

import builtins
import hashlib
import secrets
from datetime import UTC, datetime
from typing import Any

import orjson

from pool import keys_in_redis
from pool.api import Caller
from pool.paging import newest_first
from pool.redis_link import RedisLink
from quilt_fn.errors import InvalidValue, NotFound, RegistryUnavailable
from quilt_fn.model.common import new_id

DEFAULT_TENANT = "default"


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


class ApiKeys:
    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._records: dict[str, dict[str, Any]] = {}
        self._callers: dict[str, Caller] = {}

    async def load(self) -> None:
        """Fill the cache. Raises RegistryUnavailable."""
        found = await self._link.run(self._link.client.hgetall(keys_in_redis.api_keys()))
        self._records = {sha.decode(): orjson.loads(packed) for sha, packed in found.items()}
        self._callers = {sha: _caller(record) for sha, record in self._records.items()}

    def cached(self, key: str) -> Caller | None:
        return self._callers.get(digest(key))

    async def authenticate(self, key: str) -> Caller | None:
        """The caller of `key`; one that another process made is found in Redis, and none while Redis is away."""
        sha = digest(key)
        caller = self._callers.get(sha)
        if caller is not None:
            return caller
        try:
            packed = await self._link.run(self._link.client.hget(keys_in_redis.api_keys(), sha))
        except RegistryUnavailable:
            return None
        if packed is None:
            return None
        self._remember(sha, orjson.loads(packed))
        return self._callers[sha]

    async def insert(self, key: str, tenant_id: str, name: str) -> dict[str, Any]:
        """Keep a key that exists already, unless it is known; its record. Raises RegistryUnavailable, InvalidValue."""
        if not key or len(key) > 512:
            raise InvalidValue("an API key has 1 to 512 characters")
        sha = digest(key)
        record = {"key_id": new_id("key"), "tenant_id": tenant_id, "name": name, "created_at": _now()}
        new = await self._link.run(
            self._link.client.hsetnx(keys_in_redis.api_keys(), sha, orjson.dumps(record).decode())
        )
        if not new:
            packed = await self._link.run(self._link.client.hget(keys_in_redis.api_keys(), sha))
            record = orjson.loads(packed) if packed is not None else record
        self._remember(sha, record)
        return record

    async def create(self, tenant_id: str, name: str) -> dict[str, Any]:
        """A new key; `key` is in the answer and nowhere else. Raises RegistryUnavailable."""
        key = f"quilt_sk_{secrets.token_hex(16)}"
        sha = digest(key)

        async def undo() -> None:
            await self._link.run(self._link.client.hdel(keys_in_redis.api_keys(), sha))

        async with self._link.undone_by(undo):
            record = await self.insert(key, tenant_id, name)
        return {"key_id": record["key_id"], "name": name, "key": key, "created_at": record["created_at"]}

    def list(self, tenant_id: str, limit: int, cursor: str | None) -> tuple[builtins.list[dict[str, Any]], str | None]:
        """A page of a tenant's keys without the keys, newest first, and the next page's cursor. Raises InvalidValue."""
        found = [
            {"key_id": record["key_id"], "name": record["name"], "created_at": record["created_at"]}
            for record in self._records.values()
            if record["tenant_id"] == tenant_id
        ]
        return newest_first(found, lambda record: f"{record['created_at']}~{record['key_id']}", limit, cursor)

    async def delete(self, tenant_id: str, key_id: str) -> None:
        """Accept a key no longer. Raises NotFound, RegistryUnavailable."""
        for sha, record in builtins.list(self._records.items()):
            if record["key_id"] == key_id and record["tenant_id"] == tenant_id:
                await self._link.run(self._link.client.hdel(keys_in_redis.api_keys(), sha))
                self._records.pop(sha, None)
                self._callers.pop(sha, None)
                return
        raise NotFound(f"no API key {key_id}")

    def _remember(self, sha: str, record: dict[str, Any]) -> None:
        self._records[sha] = record
        self._callers[sha] = _caller(record)


def _caller(record: dict[str, Any]) -> Caller:
    return Caller(record["tenant_id"], record["key_id"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
