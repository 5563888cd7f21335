"""Single files in a running container, by commands in it: `sh`, `cat` and `ls` have to be there.

Not here: folders and large files (`quilt cp`, archives).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quilt_fn.twins import both

if TYPE_CHECKING:
    from quilt_fn.containers import Container


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
