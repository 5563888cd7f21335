"""What requests with an Idempotency-Key were answered, in Redis: 24 hours, the newest 10,000 of a tenant.

Not here: HTTP, and what makes two requests the same (`gateway.idempotency`). Who is first claims the key; others wait
for its answer. A claim of a node process that died is free again: what it did not answer may be asked for once more.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import orjson

from pool import api, scripts
from pool import keys_in_redis as keys
from pool.api import Answer
from pool.redis_link import RedisLink
from quilt_fn.errors import Conflict, RegistryUnavailable

KEEP_S = 24 * 3600
KEEP_AT_MOST = 10_000
BODY_AT_MOST = 256 * 1024
IN_MEMORY = 1000
POLL_S = 0.2
"""How often the answer of another node process is looked for."""
WAIT_S = 600.0


class Replays:
    """`incarnation` is this node process's; set it before the first `begin`."""

    def __init__(
        self, link: RedisLink, node_id: str, *, keep_at_most: int = KEEP_AT_MOST, keep_s: float = KEEP_S
    ) -> None:
        self._link = link
        self._node_id = node_id
        self._keep_at_most = keep_at_most
        self._keep_s = keep_s
        self.incarnation = 0
        self._working: dict[tuple[str, str], asyncio.Future[None]] = {}
        self._memory: OrderedDict[tuple[str, str], Answer] = OrderedDict()
        """Answers that Redis must not have, or did not take."""

    async def begin(self, tenant_id: str, scope: str, key: str) -> Answer | None:
        place = _place(tenant_id, scope, key)
        end = asyncio.get_running_loop().time() + WAIT_S
        while True:
            if (working := self._working.get(place)) is not None:
                await asyncio.shield(working)
                continue
            if (kept := self._memory.get(place)) is not None:
                return kept
            self._working[place] = asyncio.get_running_loop().create_future()
            try:
                found = await self._claim(place)
            except BaseException:
                self._done(place)
                raise
            if found is None:
                return None
            self._done(place)
            if found.startswith(b"{"):
                return _unpacked(found)
            if asyncio.get_running_loop().time() > end:
                raise Conflict("the first request with this key is still at work", hint="ask again later")
            await asyncio.sleep(POLL_S)

    async def _claim(self, place: tuple[str, str]) -> bytes | None:
        """None where the key is ours now, else what stands there."""
        instead_of = ""
        while True:
            found: bytes = await self._link.script(
                scripts.CLAIM_REPLAY,
                [keys.replay_order(place[0]), keys.replays(place[0])],
                [place[1], self._claimed, instead_of, self._keep_at_most, int(self._keep_s * 1000)],
            )
            if not found:
                return None
            kind, _, rest = found.decode("utf-8", "replace").partition(" ")
            node_id, _, incarnation = rest.partition(" ")
            if kind != "claimed" or node_id != self._node_id or int(incarnation) > self.incarnation:
                return found
            instead_of = found.decode()  # of this process it is not: who works here stands in `_working`

    @property
    def _claimed(self) -> str:
        return f"claimed {self._node_id} {self.incarnation}"

    async def keep(self, tenant_id: str, scope: str, key: str, answer: Answer) -> None:
        place = _place(tenant_id, scope, key)
        try:
            if answer.secret:
                self._remember(place, answer)
            if len(answer.body) > BODY_AT_MOST:
                await self._free(place)
            else:
                await self._link.script(
                    scripts.KEEP_REPLAY, [keys.replays(tenant_id)], [place[1], self._claimed, _packed(answer)]
                )
        except RegistryUnavailable:
            self._remember(place, answer)
        finally:
            self._done(place)

    async def give_up(self, tenant_id: str, scope: str, key: str) -> None:
        place = _place(tenant_id, scope, key)
        try:
            await self._free(place)
        except RegistryUnavailable:
            return  # a claim of ours that nobody works on is free
        finally:
            self._done(place)

    async def _free(self, place: tuple[str, str]) -> None:
        await self._link.script(
            scripts.FREE_REPLAY, [keys.replay_order(place[0]), keys.replays(place[0])], [place[1], self._claimed]
        )

    def _remember(self, place: tuple[str, str], answer: Answer) -> None:
        self._memory[place] = answer
        while len(self._memory) > IN_MEMORY:
            self._memory.popitem(last=False)

    def _done(self, place: tuple[str, str]) -> None:
        self._working.pop(place).set_result(None)


def _place(tenant_id: str, scope: str, key: str) -> tuple[str, str]:
    return tenant_id, hashlib.sha256(f"{scope}\0{key}".encode()).hexdigest()


def _packed(answer: Answer) -> bytes:
    body = b"" if answer.secret else answer.body
    fields: dict[str, Any] = {
        "status": answer.status, "type": answer.content_type, "fingerprint": answer.fingerprint,
        "secret": answer.secret, "body": base64.b64encode(body).decode(),
    }  # fmt: skip
    return orjson.dumps(fields)


def _unpacked(packed: bytes) -> Answer:
    fields = orjson.loads(packed)
    body = None if fields["secret"] else base64.b64decode(fields["body"])
    return Answer(fields["status"], body or b"", fields["type"], fields["fingerprint"], secret=fields["secret"])


if TYPE_CHECKING:

    def _is_replays(replays: Replays) -> api.Replays:
        return replays
