"""POST /api/bundles: a function's code as a raw tar.gz, streamed on to where it is checked and stored.

Not here: what makes an archive acceptable (the runtime decides that, and raises BundleInvalid).
"""

from __future__ import annotations

from aiohttp import web

from gateway import body
from gateway.context import Ask, answer


async def upload(ask: Ask) -> web.StreamResponse:
    """201 for new content, 200 for content that this tenant has stored before."""
    pieces = body.pieces(ask.request, ask.services.max_body_bytes)
    bundle_id, size_bytes, new = await ask.platform.put_bundle(ask.tenant_id, pieces)
    return answer({"bundle_id": bundle_id, "size_bytes": size_bytes}, 201 if new else 200)
