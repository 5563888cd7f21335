"""What the tests of volumes share: a volume for one test, requests for its files, archives, a look at the disk.

Not here: any test.
"""

from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.live import Answer, Live, wait_for

MIB = 1 << 20


@pytest.fixture
def volume(live: Live) -> Iterator[Callable[..., str]]:
    """`volume(size_limit_mb=…)` makes one; all are gone at the test's end, and the disk has nothing of them."""
    made: list[str] = []

    def make(**more: Any) -> str:
        name = f"v-{os.urandom(5).hex()}"
        live.ok("POST", "/api/volumes", {"name": name, **more})
        made.append(name)
        return name

    yield make
    for name in made:
        if live.ask("GET", f"/api/volumes/{name}").status == 200:
            delete(live, name)


def delete(live: Live, name: str) -> None:
    operation = live.ok("DELETE", f"/api/volumes/{name}")["operation_id"]
    ended = live.ok("GET", f"/api/operations/{operation}?wait_s=30")
    assert ended["status"] == "succeeded", ended


def put(live: Live, name: str, path: str, body: bytes, query: str = "") -> Answer:
    return live.ask("PUT", f"/api/volumes/{name}/files/{path}{query}", body)


def read(live: Live, name: str, path: str, **headers: str) -> Answer:
    return live.ask("GET", f"/api/volumes/{name}/files/{path}", headers=headers)


def names(live: Live, name: str, path: str = "") -> list[str]:
    return [entry["name"] for entry in live.ok("GET", f"/api/volumes/{name}/ls?path={path}")["entries"]]


def disk(live: Live, name: str) -> Path:
    """The folder of an unlimited volume, as root sees it."""
    volume_id = live.ok("GET", f"/api/volumes/{name}")["volume_id"]
    return next((live.root_dir / "volumes").glob(f"*/{volume_id}"))


def tar(*entries: tuple[str, bytes, bytes | str], mode: str = "w:gz") -> bytes:
    """Entries (name, type, content of a file or target of a link)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, kind, what in entries:
            info = tarfile.TarInfo(name)
            info.type = kind
            if isinstance(what, bytes):
                info.size = len(what)
            else:
                info.linkname = what
            archive.addfile(info, io.BytesIO(what) if isinstance(what, bytes) else None)
    return out.getvalue()


def half_upload(live: Live, name: str, path: str) -> socket.socket:
    """A connection over which half of a file has been sent, and arrived."""
    sock = socket.create_connection(("127.0.0.1", live.port))
    head = f"PUT /api/volumes/{name}/files/{path} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {live.key}\r\nContent-Length: "
    sock.sendall(head.encode() + f"{8 * MIB}\r\n\r\n".encode() + bytes(4 * MIB))
    incoming = disk(live, name) / "incoming"
    wait_for(lambda: any(file.stat().st_size >= 3 * MIB for file in incoming.iterdir()), "half of the file")
    return sock


def half_archive(live: Live, path: str, archive: bytes) -> socket.socket:
    """A connection over which the beginning of an archive has been sent."""
    sock = socket.create_connection(("127.0.0.1", live.port))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {live.key}\r\nContent-Length: {8 * MIB}\r\n\r\n"
    sock.sendall(head.encode() + archive)
    return sock


def loops() -> str:
    return "".join(path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file"))
