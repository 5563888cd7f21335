"""The routes of archives in and out of containers.

Not here: what an archive may hold (the spawner decides that).
"""

from __future__ import annotations

from aiohttp import web
from multidict import CIMultiDict

from gateway import file_paths
from gateway.context import Ask
from gateway.operations import accepted
from gateway.responses import stream
from gateway.route import Query, Route
from gateway.volumes import TAR, TAR_GZ, gzipped, raw, strip
from quilt_fn.model.operation import Accepted

ARCHIVE = "/api/containers/{container_id}/archive"
PATH = Query("path", "a path in the container; its root where it is absent")


async def unpack(ask: Ask) -> web.StreamResponse:
    container_id = ask.path("container_id")
    place = file_paths.text(file_paths.of_query(ask))
    record = await ask.platform.container_archives.unpack(ask.tenant_id, container_id, place, strip(ask), raw(ask))
    return accepted(record)


async def pack(ask: Ask) -> web.StreamResponse:
    zipped = gzipped(ask)
    container_id = ask.path("container_id")
    place = file_paths.of_query(ask)
    pieces = await ask.platform.container_archives.pack(ask.tenant_id, container_id, place, zipped=zipped)
    headers = CIMultiDict({"Content-Type": TAR_GZ if zipped else TAR, "X-Request-Id": ask.request_id})
    return await stream(ask.request, 200, headers, b"", pieces)


ROUTES = (
    Route(
        "POST", ARCHIVE, unpack,
        "202 when the raw tar or tar.gz was taken; its root unpacks all of it or nothing; 409 where it does not run",
        body=TAR, answers=Accepted, status=202, fills=True,
        query=(PATH, Query("strip_components", "folders to take off each name", "integer")),
    ),
    Route(
        "GET", ARCHIVE, pack, "raw tar of a folder's contents, or of one file", answers=TAR,
        query=(PATH, Query("format", "tar or tar.gz")),
    ),
)  # fmt: skip
