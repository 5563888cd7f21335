"""/api/keys: the tenant's own API keys. A key itself is shown once, when it is made.

Not here: how a key is kept or looked up (pool does that).
"""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import StringConstraints

from gateway import body
from gateway.context import Ask, answer
from quilt_fn.model.common import Model


class KeyCreate(Model):
    """`name` is for people: where this key is used."""

    name: Annotated[str, StringConstraints(max_length=100)] = ""


async def list_(ask: Ask) -> web.StreamResponse:
    return answer({"keys": await ask.platform.keys(ask.tenant_id), "next_cursor": None})


async def create(ask: Ask) -> web.StreamResponse:
    wanted = body.parse(KeyCreate, await body.read(ask.request, ask.services.max_body_bytes))
    return answer(await ask.platform.create_key(ask.tenant_id, wanted.name), 201)


async def delete(ask: Ask) -> web.StreamResponse:
    await ask.platform.delete_key(ask.tenant_id, ask.path("key_id"))
    return web.Response(status=204)
