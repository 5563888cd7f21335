"""/api/keys: the tenant's own API keys. A key itself is shown once, when it is made.

Not here: how a key is kept or looked up (pool does that).
"""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import StringConstraints

from gateway import body, pages
from gateway.context import Ask, answer
from gateway.route import Route
from quilt_fn.model.common import Model


class KeyCreate(Model):
    """`name` is for people: where this key is used."""

    name: Annotated[str, StringConstraints(max_length=100)] = ""


async def list_(ask: Ask) -> web.StreamResponse:
    return pages.page("keys", await ask.platform.keys(ask.tenant_id, *pages.asked(ask)))


async def create(ask: Ask) -> web.StreamResponse:
    wanted = body.parse(KeyCreate, await body.read(ask.request, ask.services.max_body_bytes))
    return answer(await ask.platform.create_key(ask.tenant_id, wanted.name), 201)


async def delete(ask: Ask) -> web.StreamResponse:
    await ask.platform.delete_key(ask.tenant_id, ask.path("key_id"))
    return web.Response(status=204)


ROUTES = (
    Route("GET", "/api/keys", list_, "`{keys, next_cursor}`, newest first, without the keys themselves",
          answers=pages.example("keys"), query=pages.QUERY),
    Route(
        "POST", "/api/keys", create, "201 `{key_id, name, key, created_at}`; `key` is shown only here",
        body=KeyCreate, answers={"key_id": "key_1", "name": "", "key": "…", "created_at": "2026-01-01T00:00:00Z"},
        status=201, replay="secret",
    ),
    Route("DELETE", "/api/keys/{key_id}", delete, "204", status=204),
)  # fmt: skip
