"""Files in a running container: single ones by commands in it (`sh`, `cat` and `ls` have to be there); folders and
large ones as archives, which need nothing of it.

Not here: packing and unpacking on this machine (`quilt cp`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from quilt_fn.twins import both, both_items
from quilt_fn.volumes import TRANSFER_TIMEOUT_S, received, sent

if TYPE_CHECKING:
    from quilt_fn.containers import Container
    from quilt_fn.volumes import Content


class ContainerFiles:
    def __init__(self, container: Container) -> None:
        self._container = container

    @both
    async def read(self, path: str) -> bytes:
        """The whole file. Raises FileNotThere where it can't be read, with the container's own words."""
        return await self._run(path, "cat", "--", path)

    @both
    async def write(self, path: str, data: bytes | str) -> None:
        """Replace the file. Its folder has to be there. Raises FileNotThere."""
        text = data.encode() if isinstance(data, str) else data
        await self._run(path, "sh", "-c", 'cat > "$1"', "sh", path, stdin=text)

    @both
    async def list(self, path: str = "/") -> list[str]:
        """The names in a folder. Raises FileNotThere."""
        found = await self._run(path, "ls", "-A1", "--", path)
        return found.decode(errors="surrogateescape").splitlines()

    @both
    async def unpack(self, archive: Content, path: str = "/", *, strip_components: int = 0) -> dict[str, Any]:
        """Unpack a tar or tar.gz below the folder `path`, as the container's root: {path, entries, bytes}.

        Raises ContainerNotRunning, and what the unpacking failed with, of which nothing was unpacked then.
        """
        from quilt_fn.connection import _query
        from quilt_fn.containers import ended

        query = _query(path=path, strip_components=strip_components or None)
        taken = await sent(self._container._client, "POST", self._archive, archive, query)
        done = await ended(self._container._client, taken["operation_id"], TRANSFER_TIMEOUT_S)
        return dict(done.result or {})

    @both_items
    async def pack(self, path: str = "/", *, zipped: bool = False) -> AsyncGenerator[bytes, None]:
        """A folder's contents, or a file, as a tar (tar.gz), piece by piece. Raises FileNotThere."""
        from quilt_fn.connection import _query

        query = _query(path=path, format="tar.gz" if zipped else None)
        async for piece in received(self._container._client, self._archive, query):
            yield piece

    @property
    def _archive(self) -> str:
        return f"/api/containers/{quote(self._container.id, safe='')}/archive"

    async def _run(self, path: str, *command: str, stdin: bytes = b"") -> bytes:
        from quilt_fn.errors import FileNotThere

        out, err, code = bytearray(), bytearray(), None
        async for frame in self._container.stream.aio(*command, stdin=stdin):
            if frame["type"] == "stdout":
                out += frame["data"]
            elif frame["type"] == "stderr":
                err += frame["data"]
            elif frame["type"] == "exit":
                code = frame["code"]
            elif frame["type"] == "error":
                err += frame["message"].encode()
        if code != 0:
            raise FileNotThere(f"{path}: {err.decode(errors='replace').strip() or f'exit code {code}'}")
        return bytes(out)
