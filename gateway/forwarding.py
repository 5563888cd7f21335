"""What of a request goes on to a published service, and what of its answer comes back. Pure functions.

The platform's own credentials never pass; cookies and redirects of a service stay below its own prefix. Not here: the
connections (`gateway.ingress`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl

from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.auth import X_API_KEY

X_QUILT_TOKEN = "X-Quilt-Token"
COOKIE = "quilt_linx_"
_TOKEN = re.compile(r"lnt_[0-9a-f]{32}")
_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade"}
)  # fmt: skip
_NOT_ASKED = frozenset({"expect", "x-quilt-token", "x-tenant-id", "forwarded", X_API_KEY.lower()})
_NOT_ANSWERED = frozenset({"service-worker-allowed", "clear-site-data"})
"""By these a page would reach beyond its own prefix, into the platform's origin."""


def is_token(text: str) -> bool:
    """Whether it has the form of a service's token."""
    return _TOKEN.fullmatch(text) is not None


def to_container(request: web.Request, prefix: str) -> CIMultiDict[str]:
    """The request's headers for the service, with X-Forwarded-*, which say what this side saw."""
    out = CIMultiDict(_end_to_end(request.headers.items(), request.headers.getall(hdrs.CONNECTION, []), _NOT_ASKED))
    for name in [name for name in out if name.lower().startswith("x-forwarded-")]:
        out.popall(name, None)
    credential = out.get(hdrs.AUTHORIZATION, "").partition(" ")[2].strip()
    if is_token(credential) or credential.startswith("quilt_sk_"):
        del out[hdrs.AUTHORIZATION]
    if hdrs.COOKIE in out:
        kept = [c.strip() for c in ";".join(out.popall(hdrs.COOKIE)).split(";") if not c.strip().startswith(COOKIE)]
        if any(kept):
            out[hdrs.COOKIE] = "; ".join(c for c in kept if c)
    out["X-Forwarded-For"] = request.remote or ""
    out["X-Forwarded-Proto"] = request.scheme
    out["X-Forwarded-Host"] = request.host
    out["X-Forwarded-Prefix"] = prefix
    return out


def query_without_token(raw: str) -> str:
    """The raw query as it came, but for the parts that are `token=` and a service's token or an API key."""
    return "&".join(part for part in raw.split("&") if not _is_credential(part))


def _is_credential(part: str) -> bool:
    return any(
        name == "token" and (is_token(value) or value.startswith("quilt_sk_"))
        for name, value in parse_qsl(part, keep_blank_values=True)
    )


def from_container(headers: CIMultiDictProxy[str], prefix: str) -> CIMultiDict[str]:
    """The answer's headers for the client."""
    out = CIMultiDict(_end_to_end(headers.items(), headers.getall(hdrs.CONNECTION, []), _NOT_ANSWERED))
    cookies = out.popall(hdrs.SET_COOKIE, [])
    for cookie in cookies:
        if not cookie.strip().startswith(COOKIE):
            out.add(hdrs.SET_COOKIE, _own_cookie(cookie, prefix))
    place = out.get(hdrs.LOCATION, "")
    if place.startswith("/") and not place.startswith("//"):
        out[hdrs.LOCATION] = prefix + place
    return out


def _own_cookie(cookie: str, prefix: str) -> str:
    """With a path below the service's prefix, and for this host alone."""
    first, *attributes = [part.strip() for part in cookie.split(";")]
    path = "/"
    kept = [first]
    for attribute in attributes:
        name, _, value = attribute.partition("=")
        if name.strip().lower() == "path":
            path = value.strip() if value.strip().startswith("/") else "/"
        elif name.strip().lower() != "domain":
            kept.append(attribute)
    return "; ".join([*kept, f"Path={prefix}{path}"])


def _end_to_end(
    items: Iterable[tuple[str, str]], connection: list[str], dropped: frozenset[str]
) -> list[tuple[str, str]]:
    """Without the headers of the one connection (RFC 9110, 7.6.1), and those `dropped`."""
    named = {name.strip().lower() for value in connection for name in value.split(",")}
    without = _HOP | named | dropped
    return [(name, value) for name, value in items if name.lower() not in without]
