"""`Client().volumes`: volumes, their files, archives; each method waits, or is awaited as `.aio`.

Not here: attaching a volume (the `volumes` of containers and functions), nor copying folders (`quilt cp`).
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

from quilt_fn.twins import both, both_items

if TYPE_CHECKING:
    from quilt_fn.client import Client
    from quilt_fn.connection import Page
    from quilt_fn.model.volume import Entry, VolumeInspection, VolumeRecord

PIECE = 1 << 20
TRANSFER_TIMEOUT_S = 3600.0
QUIET_S = 120.0
"""How long a transfer may stand still."""
Content = bytes | IO[bytes] | AsyncIterable[bytes]
"""What can be sent: bytes, an open binary file, or pieces as they come."""


class Volumes:
    """The volumes of the client's tenant. Every method raises what `quilt_fn.client.Client` raises."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @both
    async def create(
        self, name: str, *, size_limit_mb: int | None = None, labels: Mapping[str, str] | None = None
    ) -> Volume:
        """Raises NameTaken, InvalidValue. Without a limit it takes what the disk holds."""
        answer = await self._client._json(
            "POST", "/api/volumes", {"name": name, "size_limit_mb": size_limit_mb, "labels": dict(labels or {})},
            headers={"Idempotency-Key": secrets.token_hex(16)}, safe=True,
        )  # fmt: skip
        return self._volume(answer)

    @both
    async def get(self, name: str) -> Volume:
        """Raises VolumeNotFound."""
        return self._volume(await self._client._json("GET", _at(name), safe=True))

    @both
    async def list(self, limit: int = 100, cursor: str | None = None, label: str | None = None) -> Page:
        """Records, newest first. `label`: `key` or `key=value`."""
        from quilt_fn.connection import paged
        from quilt_fn.model.volume import VolumeRecord

        asked = {"limit": limit, "cursor": cursor, "label": label}
        return await paged(self._client, "/api/volumes", "volumes", VolumeRecord, **asked)

    @both
    async def delete(self, name: str) -> str:
        """The id of the operation that removes its files; the name is free at once. Raises VolumeAttached."""
        answer = await self._client._json(
            "DELETE", _at(name), headers={"Idempotency-Key": secrets.token_hex(16)}, safe=True
        )
        return str(answer["operation_id"])

    def _volume(self, answer: Mapping[str, Any]) -> Volume:
        from quilt_fn.model.volume import VolumeRecord

        return Volume(self._client, VolumeRecord.model_validate(answer))


class Volume:
    """One volume, as `record` was when it was asked for."""

    def __init__(self, client: Client, record: VolumeRecord) -> None:
        self._client = client
        self.record = record
        self.files = Files(client, record.name)

    def __repr__(self) -> str:
        return f"Volume({self.record.name!r})"

    @property
    def name(self) -> str:
        return self.record.name

    @both
    async def inspect(self) -> VolumeInspection:
        """The record with size, number of files, room left: counted now."""
        from quilt_fn.model.volume import VolumeInspection

        return VolumeInspection.model_validate(await self._client._json("GET", _at(self.name, "inspect"), safe=True))

    @both
    async def rename(self, new_name: str) -> Volume:
        """Raises NameTaken, VolumeAttached."""
        answer = await self._client._json("POST", _at(self.name, "rename"), {"new_name": new_name})
        return Volumes(self._client)._volume(answer)

    @both
    async def delete(self) -> str:
        """As `Volumes.delete`."""
        return await Volumes(self._client).delete.aio(self.name)

    @both
    async def unpack(self, archive: Content, path: str = "", *, strip_components: int = 0) -> dict[str, Any]:
        """Unpack a tar or tar.gz below the folder `path`: {path, entries, bytes}."""
        from quilt_fn.connection import _query

        query = _query(path=path or None, strip_components=strip_components or None)
        return await sent(self._client, "POST", _at(self.name, "archive"), archive, query)

    @both_items
    async def pack(self, path: str = "", *, zipped: bool = False) -> AsyncGenerator[bytes, None]:
        """A folder's contents, or a file, as a tar (tar.gz), piece by piece."""
        from quilt_fn.connection import _query

        query = _query(path=path or None, format="tar.gz" if zipped else None)
        async for piece in received(self._client, _at(self.name, "archive"), query):
            yield piece


class Files:
    """The files of one volume, by paths from its top."""

    def __init__(self, client: Client, volume: str) -> None:
        self._client = client
        self._volume = volume

    @both
    async def read(self, path: str) -> bytes:
        """The whole file. Raises FileNotThere."""
        return b"".join([piece async for piece in received(self._client, self._at(path))])

    @both_items
    async def stream(self, path: str) -> AsyncGenerator[bytes, None]:
        """The file piece by piece, for one that is larger than memory."""
        async for piece in received(self._client, self._at(path)):
            yield piece

    @both
    async def write(self, path: str, content: Content | str, *, mode: str | None = None) -> int:
        """Replace the file in one step; its size. Text goes as UTF-8. Raises VolumeFull."""
        from quilt_fn.connection import _query

        data = content.encode() if isinstance(content, str) else content
        answer = await sent(self._client, "PUT", self._at(path), data, _query(mode=mode))
        return int(answer["size"])

    @both_items
    async def list(self, path: str = "") -> AsyncGenerator[Entry, None]:
        """What is in a folder, ordered by name."""
        from quilt_fn.connection import _query
        from quilt_fn.model.volume import Listing

        cursor = None
        while True:
            query = _query(path=path or None, cursor=cursor, limit=200)
            answer = await self._client._json("GET", _at(self._volume, "ls"), query=query, safe=True)
            page = Listing.model_validate(answer)
            for entry in page.entries:
                yield entry
            cursor = page.next_cursor
            if cursor is None:
                return

    @both
    async def delete(self, path: str, *, recursive: bool = False) -> None:
        """A file, a link, an empty folder; with `recursive` a folder with all that is in it."""
        from quilt_fn.transport import Request

        query = {"recursive": "true"} if recursive else {}
        async with self._client._send(Request("DELETE", self._at(path), query, timeout_s=TRANSFER_TIMEOUT_S)) as reply:
            await reply.read()

    def _at(self, path: str) -> str:
        return f"{_at(self._volume, 'files')}/{quote(path, errors='surrogateescape')}"


def _at(name: str, *more: str) -> str:
    return "/".join(["/api/volumes", quote(name, safe=""), *more])


async def sent(client: Client, method: str, path: str, content: Content, query: Mapping[str, str]) -> dict[str, Any]:
    """Send `content` as a raw body; the JSON that answers it."""
    import json

    from quilt_fn.transport import Request

    body = content if isinstance(content, bytes) else _pieces(content)
    headers = {"Content-Type": "application/octet-stream"}
    request = Request(method, path, query, headers, body, TRANSFER_TIMEOUT_S)
    async with client._send(request) as reply:
        answer: dict[str, Any] = json.loads(await reply.read())
    return answer


async def _pieces(content: IO[bytes] | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    import asyncio

    if isinstance(content, AsyncIterable):
        async for piece in content:
            yield piece
        return
    while piece := await asyncio.to_thread(content.read, PIECE):
        yield piece


async def received(client: Client, path: str, query: Mapping[str, str] | None = None) -> AsyncGenerator[bytes, None]:
    """The raw body of an answer, piece by piece."""
    from quilt_fn.transport import Request

    async with client._send(Request("GET", path, query or {}, timeout_s=None, quiet_timeout_s=QUIET_S)) as reply:
        async for piece in reply.pieces():
            yield piece
