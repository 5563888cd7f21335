"""Who asks: from the request's credential to a Caller. 401 without a credential, 403 with a wrong one.

Not here: keys themselves (pool looks them up by their hash, so nothing here compares secrets).
"""

from __future__ import annotations

import ipaddress

from aiohttp import web
from multidict import istr

from pool.api import Caller, Platform
from quilt_fn.errors import Forbidden, Unauthenticated

X_API_KEY = istr("X-Api-Key")
AUTHORIZATION = istr("Authorization")
NOBODY = Caller(tenant_id="", key_id="")
"""The caller of a public route."""
_WHERE = (
    "`quilt up` keeps its first key in ~/.config/quilt/credentials.json, and with that `quilt keys create` makes more"
)


def bearer(header: str | None) -> str | None:
    """The token of an `Authorization: Bearer …`, None for other schemes."""
    if header is None or header[:7].lower() != "bearer ":
        return None
    return header[7:].strip() or None


def credential(request: web.BaseRequest, *, in_query: bool = False) -> str | None:
    """The key that the request carries. `in_query` also takes `?token=`: clients of event streams set no headers."""
    headers = request.headers
    return (
        headers.get(X_API_KEY)
        or bearer(headers.get(AUTHORIZATION))
        or (request.query.get("token") if in_query else None)
    )


def missing() -> Unauthenticated:
    return Unauthenticated("an API key is needed", hint=f"send it as X-Api-Key or Authorization: Bearer; {_WHERE}")


def wrong() -> Forbidden:
    return Forbidden("this API key is not known here", hint=f"set QUILT_API_KEY to one that is; {_WHERE}")


async def accept(platform: Platform, key: str) -> Caller:
    """The caller of `key`; raises Forbidden where it is not one."""
    caller = platform.authenticate_cached(key) or await platform.authenticate(key)
    if caller is None:
        raise wrong()
    return caller


async def authenticate(platform: Platform, request: web.BaseRequest, *, in_query: bool = False) -> Caller:
    """The caller of an API route."""
    key = credential(request, in_query=in_query)
    if key is None:
        raise missing()
    return await accept(platform, key)


def from_loopback(request: web.BaseRequest) -> bool:
    try:
        return ipaddress.ip_address(request.remote or "").is_loopback
    except ValueError:
        return False
