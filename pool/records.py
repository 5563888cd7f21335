"""Invocation records: from the hot path into a buffer, packed off it, and pushed to Redis in small batches.

The hot path appends one `Ended`; everything else happens in `run`, in steps of at most 64 records, so that the loop is
never held for long. While Redis is away the records wait in a bounded buffer, the oldest dropped and counted. Output
beyond 4 KiB lies in the log files; a read of one record joins it. Not here: what a record holds (`pool.ended`), and how
an invocation runs.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import orjson

from pool import keys_in_redis as keys
from pool import scripts
from pool.clock import Clock
from pool.ended import Ended, Packed, pack
from pool.log_files import LogFiles, Output
from pool.redis_link import RedisLink
from pool.stats import NodeStats
from quilt_fn.errors import InvalidValue, InvocationNotFound, RegistryUnavailable
from quilt_fn.states import InvocationStatus

log = logging.getLogger(__name__)

BATCH = 64
GATHER_S = 0.01
GATHER_BUSY_S = 1.0
BUSY = 50
"""A flush of at least so many records makes the next one gather for longer: of what one gathers, only the newest that
are kept at all are written, which at thousands of invocations a second spares both processes most of the work."""
UNSENT_LIMIT = 20_000
UNSENT_LIMIT_BYTES = 64 << 20
PENDING_LIMIT = 20_000
PENDING_LIMIT_BYTES = 64 << 20
RECENT = 2000
RETRY_S = 1.0


class Records:
    """`add` is the hot path's; `run` has to run for as long as records are to be kept."""

    def __init__(
        self,
        link: RedisLink,
        logs: LogFiles,
        node_id: str,
        clock: Clock,
        stats: NodeStats,
        *,
        per_function: int = 1000,
        days: float = 7.0,
    ) -> None:
        self._link = link
        self._logs = logs
        self._node_id = node_id
        self._clock = clock
        self._stats = stats
        self._per_function = per_function
        self._keep_s = days * 86_400
        self._pending: deque[Ended] = deque()
        self._pending_bytes = 0
        self._unsent: dict[str, deque[Packed]] = {}
        self._unsent_count = 0
        self._unsent_bytes = 0
        self._recent: dict[str, Packed] = {}
        self._surplus: dict[str, tuple[int, int]] = {}
        """(invocations, errors) by function, of records that would be trimmed at once: counted, not written."""
        self._gather_s = GATHER_S
        self._woken = False
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()
        self.on_ended: Callable[[Ended], None] = lambda _ended: None
        """Told of each record when it is packed, off the hot path."""
        link.on_change.append(lambda up: self._wake.set() if up else None)

    def add(self, ended: Ended) -> None:
        """Keep a record. At most a few hundred nanoseconds."""
        self._pending.append(ended)
        if ended.stdout or ended.stderr:
            self._pending_bytes += len(ended.stdout) + len(ended.stderr)
            while self._pending_bytes > PENDING_LIMIT_BYTES and len(self._pending) > 1:
                self._drop_pending()
        if not self._woken:
            self._woken = True
            self._clock.later(self._gather_s, self._wake.set)
        elif len(self._pending) > PENDING_LIMIT:
            self._drop_pending()

    def _drop_pending(self) -> None:
        oldest = self._pending.popleft()
        self._pending_bytes -= len(oldest.stdout) + len(oldest.stderr)
        self._stats.records_dropped += 1

    # the flush

    async def run(self) -> None:
        """Pack and push until cancelled."""
        while True:
            if self._unsent_count:
                try:
                    async with asyncio.timeout(RETRY_S):
                        await self._wake.wait()
                except TimeoutError:
                    log.debug("trying again to push %d records", self._unsent_count)
            else:
                await self._wake.wait()
            await self.flush()

    async def flush(self) -> None:
        """Pack all that is pending and push it, as far as Redis answers."""
        async with self._flushing:
            self._wake.clear()
            self._woken = False
            self._gather_s = GATHER_BUSY_S if len(self._pending) >= BUSY else GATHER_S
            await self._leave_surplus()
            while self._pending:
                await self._pack_some()
            try:
                await self._push()
            except RegistryUnavailable as error:
                log.debug("%d records wait: %s", self._unsent_count, error)

    async def _leave_surplus(self) -> None:
        """Take out of what is pending the records that newer ones would push out at once. Those with output stay."""
        if len(self._pending) <= self._per_function:
            return
        seen: dict[str, int] = {}
        kept: deque[Ended] = deque()
        gathered, self._pending = self._pending, deque()
        for count, ended in enumerate(reversed(gathered), 1):
            newer = seen.get(ended.function_id, 0)
            seen[ended.function_id] = newer + 1
            if newer >= self._per_function and not ended.stdout and not ended.stderr:
                calls, errors = self._surplus.get(ended.function_id, (0, 0))
                failed = ended.status is not InvocationStatus.SUCCESS
                self._surplus[ended.function_id] = (calls + 1, errors + failed)
            else:
                kept.appendleft(ended)
            if count % 1000 == 0:
                await asyncio.sleep(0)
        kept.extend(self._pending)
        self._pending = kept

    async def _pack_some(self) -> None:
        outputs: list[Output] = []
        for _ in range(min(BATCH, len(self._pending))):
            ended = self._pending.popleft()
            self.on_ended(ended)
            packed = pack(ended, self._node_id)
            self._recent[packed.invocation_id] = packed
            self._unsent.setdefault(packed.function_id, deque()).append(packed)
            self._unsent_count += 1
            self._unsent_bytes += len(packed.body)
            if ended.stdout or ended.stderr:
                self._pending_bytes -= len(ended.stdout) + len(ended.stderr)
                outputs.append(
                    Output(
                        ended.function_id, ended.invocation_id, ended.instance_id, ended.ended_at,
                        ended.stdout, ended.stderr,
                    )
                )  # fmt: skip
        self._bound()
        if outputs:
            try:
                await self._logs.append(outputs)
            except OSError as error:
                log.error("the output of %d invocations could not be written: %s", len(outputs), error)
        else:
            await asyncio.sleep(0)

    def _bound(self) -> None:
        while self._unsent_count > UNSENT_LIMIT or self._unsent_bytes > UNSENT_LIMIT_BYTES:
            function_id = min(self._unsent, key=lambda each: self._unsent[each][0].ended_at)
            self._sent([self._unsent[function_id].popleft()], function_id)
            self._stats.records_dropped += 1
        while len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]

    def _sent(self, batch: list[Packed], function_id: str) -> None:
        self._unsent_count -= len(batch)
        self._unsent_bytes -= sum(len(packed.body) for packed in batch)
        if not self._unsent.get(function_id):
            self._unsent.pop(function_id, None)

    async def _push(self) -> None:
        for function_id in list(self._unsent):
            while (queue := self._unsent.get(function_id)) is not None:
                batch = [queue[index] for index in range(min(BATCH, len(queue)))]
                await self._push_batch(function_id, batch)
                # While that was under way the bound may have dropped the oldest of them.
                gone = {packed.invocation_id for packed in batch}
                done: list[Packed] = []
                while queue and queue[0].invocation_id in gone:
                    done.append(queue.popleft())
                self._sent(done, function_id)

    async def _push_batch(self, function_id: str, batch: list[Packed]) -> None:
        now = self._clock.wall()
        calls, errors = self._surplus.pop(function_id, (0, 0))
        args: list[Any] = [self._per_function, now - self._keep_s, batch[-1].ended_at, calls, errors]
        for packed in batch:
            args += (packed.invocation_id, packed.ended_at, "1" if packed.is_error else "0", packed.body)
        places = [
            keys.record_order(function_id), keys.records(function_id), keys.counts(function_id),
            keys.function(function_id),
        ]  # fmt: skip
        try:
            await self._link.script(scripts.PUSH_RECORDS, places, args)
        except RegistryUnavailable:
            if calls:
                more = self._surplus.get(function_id, (0, 0))
                self._surplus[function_id] = (calls + more[0], errors + more[1])
            raise

    # reading

    async def get(self, function_id: str, invocation_id: str) -> dict[str, Any]:
        """One record with all of its output. Raises InvocationNotFound, RegistryUnavailable."""
        record = self._from_memory(function_id, invocation_id)
        if record is None:
            body = await self._link.run(self._link.client.hget(keys.records(function_id), invocation_id))
            if body is None:
                raise InvocationNotFound(
                    f"no invocation {invocation_id} of this function is kept",
                    hint=f"The last {self._per_function} of a function are, for {self._keep_s / 86_400:g} days.",
                )
            record = orjson.loads(body)
        if record.pop("output_in_logs", False):
            stdout, stderr = await self._logs.output_of(function_id, invocation_id)
            record["stdout"] = stdout or record["stdout"]
            record["stderr"] = stderr or record["stderr"]
        return record

    def _from_memory(self, function_id: str, invocation_id: str) -> dict[str, Any] | None:
        for ended in reversed(self._pending):
            if ended.invocation_id == invocation_id and ended.function_id == function_id:
                record = orjson.loads(pack(ended, self._node_id).body)
                record.pop("output_in_logs", None)
                record["stdout"] = ended.stdout.decode("utf-8", "replace")
                record["stderr"] = ended.stderr.decode("utf-8", "replace")
                return record  # type: ignore[no-any-return]
        packed = self._recent.get(invocation_id)
        if packed is None or packed.function_id != function_id:
            return None
        return orjson.loads(packed.body)  # type: ignore[no-any-return]

    async def list(
        self, function_id: str, status: str | None, limit: int, cursor: str | None
    ) -> tuple[builtins.list[dict[str, Any]], str | None]:
        """Newest first, output at most 4 KiB each; while Redis is away those that this process remembers."""
        await self.flush()
        try:
            return await self._list_stored(function_id, status, limit, cursor)
        except RegistryUnavailable:
            found = [packed for packed in self._recent.values() if packed.function_id == function_id]
            found.sort(key=lambda packed: (packed.ended_at, packed.invocation_id), reverse=True)
            records = [orjson.loads(packed.body) for packed in found]
            return [_listed(record) for record in records if status in (None, record["status"])][:limit], None

    async def _list_stored(
        self, function_id: str, status: str | None, limit: int, cursor: str | None
    ) -> tuple[builtins.list[dict[str, Any]], str | None]:
        client = self._link.client
        found: builtins.list[dict[str, Any]] = []
        last = ""
        top, after = _parse(cursor)
        while True:
            order = await self._link.run(
                client.zrange(
                    keys.record_order(function_id), top, "-inf", desc=True, byscore=True,
                    offset=0, num=BATCH * 2, withscores=True,
                )
            )  # fmt: skip
            page = [(item.decode(), score) for item, score in order]
            page = [(item, score) for item, score in page if not (after and score == float(top) and item >= after)]
            if not page:
                return found, None
            bodies = await self._link.run(client.hmget(keys.records(function_id), [item for item, _ in page]))
            for (item, score), body in zip(page, bodies, strict=True):
                if body is None:
                    continue
                record = orjson.loads(body)
                if status is None or record["status"] == status:
                    if len(found) == limit:
                        return found, last
                    found.append(_listed(record))
                    last = f"{score!r}~{item}"
            top, after = repr(page[-1][1]), page[-1][0]

    async def counts(self, function_id: str) -> dict[str, float]:
        """{invocations, errors, last_invoked_at} as stored."""
        stored = await self._link.run(self._link.client.hgetall(keys.counts(function_id)))
        return {name.decode(): float(value) for name, value in stored.items()}

    def forget(self, function_id: str) -> None:
        """The function is gone: what was not sent need not be."""
        queue = self._unsent.get(function_id)
        if queue is not None:
            dropped = list(queue)
            queue.clear()
            self._sent(dropped, function_id)
        for invocation_id in [each for each, packed in self._recent.items() if packed.function_id == function_id]:
            del self._recent[invocation_id]

    @property
    def waiting(self) -> int:
        """Records that Redis does not have yet."""
        return len(self._pending) + self._unsent_count


def _listed(record: dict[str, Any]) -> dict[str, Any]:
    if record.pop("output_in_logs", False):
        record["truncated"] = True
    return record


def _parse(cursor: str | None) -> tuple[str, str]:
    if cursor is None:
        return "+inf", ""
    score, _, item = cursor.partition("~")
    try:
        float(score)
    except ValueError:
        raise InvalidValue(f"not a cursor of this list: {cursor[:100]!r}") from None
    return score, item
