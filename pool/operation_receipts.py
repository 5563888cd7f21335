"""The receipts of operations in Redis: added, read, listed, and moved by compare-and-set under an incarnation.

Not here: what an operation does and when it moves (`pool.operations`). Everything raises RegistryUnavailable while
Redis is away.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pool import keys_in_redis as keys
from pool import scripts
from pool.redis_link import RedisLink
from quilt_fn.errors import OperationNotFound
from quilt_fn.model.operation import OperationRecord
from quilt_fn.states import OPERATION, OPERATION_ENDS, OperationStatus

PAGE = 100


@dataclass(slots=True)
class Receipts:
    """The newest `per_tenant` of a tenant, for `days`. `incarnation` is this node process's; set it before a write."""

    link: RedisLink
    node_id: str
    per_tenant: int
    days: float
    incarnation: int = 0

    async def left_open(self) -> dict[str, str]:
        """Tenant id by operation id of what this node had begun, and not ended."""
        opened = await self.link.run(self.link.client.hgetall(keys.operations_open(self.node_id)))
        return {operation_id.decode(): tenant_id.decode() for operation_id, tenant_id in opened.items()}

    async def add(self, tenant_id: str, record: OperationRecord, now: float) -> None:
        """A new one, which is open. `now`: seconds since the epoch, from which the oldest to keep is counted."""
        # First among the open ones: a crash between the two leaves an id there that has no receipt, which is harmless.
        await self.link.run(self.link.client.hset(keys.operations_open(self.node_id), record.operation_id, tenant_id))
        await self.link.script(
            scripts.ADD_OPERATION,
            [keys.operation_order(tenant_id), *_places(tenant_id)],
            [
                record.operation_id,
                f"{record.status} {self.incarnation}",
                record.model_dump_json(),
                self.per_tenant,
                now - self.days * 86_400,
                _spaced(OPERATION_ENDS),
            ],
        )

    async def take_back(self, tenant_id: str, operation_id: str) -> None:
        """Of one whose caller was told that it was not begun, nothing stays. Idempotent."""
        states, records = _places(tenant_id)
        pipe = self.link.client.pipeline(transaction=False)
        pipe.zrem(keys.operation_order(tenant_id), operation_id)
        pipe.hdel(states, operation_id)
        pipe.hdel(records, operation_id)
        pipe.hdel(keys.operations_open(self.node_id), operation_id)
        await self.link.run(pipe.execute())

    async def read(self, tenant_id: str, operation_id: str) -> OperationRecord:
        """Raises OperationNotFound."""
        body = await self.link.run(self.link.client.hget(keys.operation_records(tenant_id), operation_id))
        if body is None:
            raise OperationNotFound(
                f"no operation {operation_id[:100]}",
                hint=f"The newest {self.per_tenant} are kept, for {self.days:g} days.",
            )
        return OperationRecord.model_validate_json(body)

    async def page(self, tenant_id: str, below: str | None) -> list[tuple[str, str, OperationRecord | None]]:
        """(id, cursor, receipt) of the next hundred, newest first; None where one was trimmed just now."""
        found = await self.link.run(
            self.link.client.zrange(
                keys.operation_order(tenant_id), f"({below}" if below else "+inf", "-inf",
                desc=True, byscore=True, offset=0, num=PAGE, withscores=True,
            )
        )  # fmt: skip
        if not found:
            return []
        bodies = await self.link.run(
            self.link.client.hmget(keys.operation_records(tenant_id), [item for item, _ in found])
        )
        return [
            (item.decode(), str(int(score)), None if body is None else OperationRecord.model_validate_json(body))
            for (item, score), body in zip(found, bodies, strict=True)
        ]

    async def move(
        self, tenant_id: str, record: OperationRecord, froms: Iterable[OperationStatus] = ()
    ) -> tuple[str, str]:
        """Write `record` where it stands in one of `froms` (by default those that its table lets it come from): ("ok",
        …), or (refused | fenced | gone, a detail).
        """
        allowed = set(froms) or {old for old, news in OPERATION.items() if record.status in news}
        what, detail = await self.link.script(
            scripts.MOVE_OPERATION,
            _places(tenant_id),
            [record.operation_id, record.status, _spaced(allowed), str(self.incarnation), record.model_dump_json()],
        )
        return what.decode(), detail.decode()

    async def close(self, operation_id: str) -> None:
        """It is open no more, and nobody need cancel it."""
        pipe = self.link.client.pipeline(transaction=False)
        pipe.hdel(keys.operations_open(self.node_id), operation_id)
        pipe.srem(keys.operation_cancels(), operation_id)
        await self.link.run(pipe.execute())

    async def ask_cancel(self, operation_id: str) -> None:
        """Of whoever runs it."""
        await self.link.run(self.link.client.sadd(keys.operation_cancels(), operation_id))

    async def asked_cancels(self) -> set[str]:
        """The ids of what is to be cancelled, of all nodes."""
        return {each.decode() for each in await self.link.run(self.link.client.smembers(keys.operation_cancels()))}


def _places(tenant_id: str) -> list[str]:
    return [keys.operation_states(tenant_id), keys.operation_records(tenant_id)]


def _spaced(statuses: Iterable[OperationStatus]) -> str:
    """For the scripts, which look for ` status `."""
    return f" {' '.join(sorted(statuses))} "
