"""The routes of volumes: create, read, rename, delete; files up and down as raw bytes; archives in and out.

Not here: what a path or an archive may hold (the spawner decides that), nor attaching.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from email.utils import formatdate

from aiohttp import web
from multidict import CIMultiDict

from gateway import body, examples, file_paths, health, pages
from gateway.context import Ask, answer
from gateway.errors import invalid_field
from gateway.operations import accepted
from gateway.responses import OCTETS, stream
from gateway.route import FULL, Concern, Query, Route
from quilt_fn.errors import InvalidRequest, RangeNotSatisfiable
from quilt_fn.model.operation import Accepted
from quilt_fn.model.volume import (
    FileWrite,
    FileWritten,
    Listing,
    Unpacked,
    VolumeCreate,
    VolumeInspection,
    VolumeRecord,
    VolumeRename,
    mode_bits,
)
from runtime.volumes.api import OpenFile

RAW_LIMIT_BYTES = 1 << 40
"""Of raw bodies, which are never held in memory, so QUILT_MAX_BODY_MB does not count for them."""
STRIP_MAX = 200
PAGE_DEFAULT, PAGE_MAX = 100, 200
TAR, TAR_GZ = "application/x-tar", "application/gzip"
_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)", re.IGNORECASE)
DIGITS_MAX = 20
"""Of a byte's number: beyond is beyond every file."""


async def create(ask: Ask) -> web.StreamResponse:
    wanted = body.parse(VolumeCreate, await body.read(ask.request, ask.services.max_body_bytes))
    return answer(await ask.platform.volumes.create(ask.tenant_id, wanted), 201)


async def list_(ask: Ask) -> web.StreamResponse:
    label = ask.request.query.get("label")
    return pages.page("volumes", await ask.platform.volumes.list(ask.tenant_id, *pages.asked(ask), label))


async def get(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.volumes.get(ask.tenant_id, ask.path("name")))


async def inspect(ask: Ask) -> web.StreamResponse:
    return answer(await ask.platform.volumes.inspect(ask.tenant_id, ask.path("name")))


async def rename(ask: Ask) -> web.StreamResponse:
    wanted = body.parse(VolumeRename, await body.read(ask.request, ask.services.max_body_bytes))
    return answer(await ask.platform.volumes.rename(ask.tenant_id, ask.path("name"), wanted.new_name))


async def delete(ask: Ask) -> web.StreamResponse:
    return accepted(await ask.platform.volumes.delete(ask.tenant_id, ask.path("name")))


# --- files ------------------------------------------------------------------------------------------------------------


async def ls(ask: Ask) -> web.StreamResponse:
    query = ask.request.query
    limit, place = ask.number("limit", PAGE_DEFAULT, PAGE_MAX), file_paths.of_query(ask)
    return answer(await ask.platform.volumes.ls(ask.tenant_id, ask.path("name"), place, limit, query.get("cursor")))


async def write(ask: Ask) -> web.StreamResponse:
    wanted = body.parse(FileWrite, await body.read(ask.request, ask.services.max_body_bytes))
    try:
        content = base64.b64decode(wanted.content, validate=True)
    except ValueError:  # not base64, or not even ASCII
        raise invalid_field("content", "base64", wanted.content) from None

    async def once() -> AsyncIterator[bytes]:
        yield content

    return await _written(ask, wanted.path, once(), wanted.mode, 201)


async def put(ask: Ask) -> web.StreamResponse:
    text = ask.request.query.get("mode")
    try:
        mode = None if text is None else int(str(mode_bits(text)))
    except ValueError:
        raise invalid_field("mode", 'an octal text such as "644"', text) from None
    return await _written(ask, file_paths.of_route(ask), raw(ask), mode, 201)


async def _written(ask: Ask, path: str, content: AsyncIterator[bytes], mode: int | None, status: int) -> web.Response:
    path = file_paths.of_file(path)
    size = await ask.platform.volumes.write(ask.tenant_id, ask.path("name"), path, content, mode)
    return answer(FileWritten(path=path, size=size), status)


async def raw(ask: Ask) -> AsyncIterator[bytes]:
    """The body as it comes; a body that ends too early must not pass for the whole."""
    announced, size = ask.request.content_length, 0
    async for piece in body.pieces(ask.request, RAW_LIMIT_BYTES):
        size += len(piece)
        yield piece
    if announced is not None and size != announced:
        raise InvalidRequest(f"the body ended after {size} of {announced} bytes")


async def download(ask: Ask) -> web.StreamResponse:
    file = await ask.platform.volumes.open(ask.tenant_id, ask.path("name"), file_paths.of_route(ask))
    try:
        start, end = byte_range(ask.request.headers.get("Range"), file.size) or (0, file.size)
        headers = _headers(ask, file) | {"Content-Length": str(end - start)}
        partial = (start, end) != (0, file.size)
        if partial:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
        status = 206 if partial else 200
        return await stream(ask.request, status, CIMultiDict(headers), b"", file.read(start, end))
    finally:
        file.close()


async def head(ask: Ask) -> web.StreamResponse:
    """Of the whole file: a Range is for GET alone (RFC 9110, 14.2)."""
    file = await ask.platform.volumes.open(ask.tenant_id, ask.path("name"), file_paths.of_route(ask))
    try:
        return web.Response(headers=_headers(ask, file) | {"Content-Length": str(file.size)})
    finally:
        file.close()


def _headers(ask: Ask, file: OpenFile) -> dict[str, str]:
    return {
        "Content-Type": OCTETS,
        "Accept-Ranges": "bytes",
        "Last-Modified": formatdate(file.modified_at, usegmt=True),
        "X-Quilt-File-Mode": f"{file.mode:o}",
        "X-Request-Id": ask.request_id,
    }


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """(start, end) of `Range: bytes=a-b`, `a-` or `-n`; None for none, or one that is to be ignored (several, other
    units). Raises RangeNotSatisfiable.
    """
    found = _RANGE.fullmatch((header or "").strip())
    if found is None or (not found[1] and not found[2]):
        return None
    first, last = (_position(digits) if digits else None for digits in found.groups())
    if first is None:
        start, end = max(0, size - (last or 0)), size
    elif last is not None and last < first:
        return None
    else:
        start, end = first, size if last is None else min(last + 1, size)
    if start >= end:
        raise RangeNotSatisfiable(f"the file has {size} bytes", details={"size": size})
    return start, end


def _position(digits: str) -> int:
    """The number, or another one that is beyond every file too."""
    plain = digits.lstrip("0")
    return int(plain or "0") if len(plain) <= DIGITS_MAX else 10**DIGITS_MAX


async def remove(ask: Ask) -> web.StreamResponse:
    await ask.platform.volumes.remove(
        ask.tenant_id, ask.path("name"), file_paths.of_route(ask), recursive=ask.flag("recursive")
    )
    return web.Response(status=204)


# --- archives ---------------------------------------------------------------------------------------------------------


async def unpack(ask: Ask) -> web.StreamResponse:
    place = file_paths.text(file_paths.of_query(ask))
    done = await ask.platform.volumes.unpack(ask.tenant_id, ask.path("name"), place, strip(ask), raw(ask))
    return answer(done)


async def pack(ask: Ask) -> web.StreamResponse:
    zipped = gzipped(ask)
    place = file_paths.of_query(ask)
    pieces = await ask.platform.volumes.pack(ask.tenant_id, ask.path("name"), place, zipped=zipped)
    headers = CIMultiDict({"Content-Type": TAR_GZ if zipped else TAR, "X-Request-Id": ask.request_id})
    return await stream(ask.request, 200, headers, b"", pieces)


def strip(ask: Ask) -> int:
    """`strip_components` of the query."""
    text = ask.request.query.get("strip_components", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 5 and int(text) <= STRIP_MAX):
        raise invalid_field("strip_components", f"a whole number from 0 to {STRIP_MAX}", text)
    return int(text)


def gzipped(ask: Ask) -> bool:
    """`format` of the query: tar (default) or tar.gz."""
    text = ask.request.query.get("format", "tar")
    if text not in ("tar", "tar.gz"):
        raise invalid_field("format", "tar or tar.gz", text)
    return text == "tar.gz"


VOLUME = "/api/volumes/{name}"
FILE = VOLUME + "/files/{path:(?s:.+)}"
"""Names may have newlines in them."""
PATH = Query("path", "a path from the volume's top; the top itself where it is absent")
CONCERN = Concern(
    "volumes",
    "Folders that outlive containers and functions, attached to as many of them as you like.",
    (
        Route("POST", "/api/volumes", create, "201 record", body=VolumeCreate, answers=VolumeRecord, status=201,
              fills=True),
        Route("GET", "/api/volumes", list_, "`{volumes, next_cursor}`, newest first",
              answers=pages.example("volumes"), query=(Query("label", "`key` or `key=value`"), *pages.QUERY)),
        Route("GET", VOLUME, get, "record", answers=VolumeRecord),
        Route("GET", VOLUME + "/inspect", inspect, "record with size, number of files, room left",
              answers=VolumeInspection),
        Route("POST", VOLUME + "/rename", rename, "record; 409 while attached", body=VolumeRename,
              answers=VolumeRecord),
        Route("DELETE", VOLUME, delete, "202; the name is free at once; 409 while attached", answers=Accepted,
              status=202),
        Route("GET", VOLUME + "/ls", ls, "`{path, entries, next_cursor}`, ordered by name", answers=Listing,
              query=(PATH, Query("limit", "at most 200", "integer"),
                     Query("cursor", "`next_cursor` of the page before"))),
        Route("POST", VOLUME + "/files", write, "201 `{path, size}`; content as base64, within QUILT_MAX_BODY_MB",
              body=FileWrite, answers=FileWritten, status=201, fills=True),
        Route("PUT", FILE, put, "201 `{path, size}`; raw body of any size, which takes its place when it is whole",
              body=OCTETS, answers=FileWritten, status=201, fills=True,
              query=(Query("mode", "octal, such as 644"),)),
        Route("GET", FILE, download, "raw bytes; `Range` gives 206", answers=OCTETS, also=(206,),
              headers=(Query("Range", "`bytes=a-b`, `a-` or `-n`"),)),
        Route("HEAD", FILE, head, "the headers of GET, with the whole file's Content-Length", answers=OCTETS),
        Route("DELETE", FILE, remove, "204 for a file, a link or an empty folder", status=204,
              query=(Query("recursive", "a folder with all that is in it", "boolean"),)),
        Route("POST", VOLUME + "/archive", unpack,
              "`{path, entries, bytes}` of a raw tar or tar.gz: all of it is unpacked, or nothing",
              body=TAR, answers=Unpacked, fills=True,
              query=(PATH, Query("strip_components", "folders to take off each name", "integer"))),
        Route("GET", VOLUME + "/archive", pack, "raw tar of a folder's contents, or of one file", answers=TAR,
              query=(PATH, Query("format", "tar or tar.gz"))),
    ),
    health=health.all_of(health.redis, health.spawner, health.disk),
    examples=examples.VOLUMES,
    rules=(
        "Paths are relative to the volume's top; `..` is refused, and links are followed within the volume only.",
        "Names that are not UTF-8 come from archives and containers alone. They are listed with `\\xNN` for such a "
        "byte, and read and removed as %NN.",
        "A file takes its place in one step when it is whole and on disk; an upload that ends early changes nothing.",
        "An archive is unpacked as a whole or not at all: entries take their places when all of it is read and valid.",
        "Names of `.quilt-` and 20 hexadecimal digits are the platform's own: they are not shown, and may be removed.",
        "Archives hold folders, files and links; everything belongs to root and no entry may leave the volume.",
        "Pipes, sockets and devices in a folder are left out of its archive; one that `path` names is refused.",
        "A volume with `size_limit_mb` is a filesystem of that size, its own bookkeeping included.",
        "A tenant may have 6 archives on their way at once, those of containers too: one more is 429 QUOTA_EXCEEDED.",
        "Attached volumes can be neither deleted nor renamed: 409 VOLUME_ATTACHED names who has them.",
        "Where there is no room: 413 VOLUME_FULL, and what was there before stays.",
        FULL,
    ),
    states=("VOLUME",),
)  # fmt: skip
