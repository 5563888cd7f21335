"""The reader of a container's log, over files written as init writes them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from runtime.containers.log import FILES, HEAD, TURN, ContainerLog, Line, open_files


def write(folder: Path, which: int, turn: int | None, *pieces: tuple[float, int, bytes]) -> None:
    """Append pieces; with `turn` the file is begun anew."""
    path = folder / FILES[which]
    head = b"" if turn is None else TURN.pack(turn)
    data = head + b"".join(HEAD.pack(int(t * 1e9), len(text), stream) + text for t, stream, text in pieces)
    if turn is None:
        with path.open("ab") as file:
            file.write(data)
    else:
        path.write_bytes(data)


async def last(folder: Path, limit: int = 100) -> list[Line]:
    return [line async for line in ContainerLog(folder).lines(limit, follow=False)]


async def test_no_log_has_no_lines(tmp_path: Path) -> None:
    assert await last(tmp_path / "nowhere") == []
    for fd in open_files(tmp_path / "made"):
        os.close(fd)
    assert await last(tmp_path / "made") == []


async def test_lines_of_two_streams(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, (1.0, 1, b"one\ntw"), (2.0, 2, b"err\n"), (3.0, 1, b"o\r\nrest"), (4.0, 2, b"\xff\n\n"))
    assert await last(tmp_path) == [
        Line(1.0, "stdout", "one"), Line(2.0, "stderr", "err"), Line(1.0, "stdout", "two"),
        Line(4.0, "stderr", "\ufffd"), Line(4.0, "stderr", ""), Line(3.0, "stdout", "rest"),
    ]  # fmt: skip
    assert [line.text for line in await last(tmp_path, 2)] == ["", "rest"]


async def test_the_older_file_comes_first(tmp_path: Path) -> None:
    write(tmp_path, 0, 7, (3.0, 1, b"c\n"))
    write(tmp_path, 1, 6, (1.0, 1, b"a\n"), (2.0, 1, b"b\n"))
    assert [line.text for line in await last(tmp_path)] == ["a", "b", "c"]


async def test_a_piece_that_is_being_written_waits(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, (1.0, 1, b"whole\n"), (2.0, 1, b"torn\n"))
    path = tmp_path / FILES[0]
    path.write_bytes(path.read_bytes()[:-3])
    assert [line.text for line in await last(tmp_path)] == ["whole"]


async def test_a_line_without_end_is_told_in_parts(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, *((float(n), 1, b"x" * 30_000) for n in range(10)))
    lines = await last(tmp_path)
    assert sum(len(line.text) for line in lines) == 300_000
    assert max(len(line.text) for line in lines) == 65_536


async def test_follow_goes_over_into_the_other_file(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, (1.0, 1, b"a\n"))
    lines = ContainerLog(tmp_path).lines(10, follow=True)

    async def text() -> str:
        return (await asyncio.wait_for(anext(lines), 10)).text

    assert await text() == "a"
    write(tmp_path, 0, None, (2.0, 1, b"b\nc"))
    assert await text() == "b"
    write(tmp_path, 1, 2, (3.0, 1, b"c\nd\n"))
    assert [await text(), await text()] == ["cc", "d"]
    write(tmp_path, 0, 3, (4.0, 1, b"e\n"))
    assert await text() == "e"
    await lines.aclose()  # type: ignore[attr-defined]


async def test_follow_ends_with_the_command_and_tells_what_it_wrote_before(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, (1.0, 1, b"a\n"))
    over = False
    lines = ContainerLog(tmp_path).lines(10, follow=True, ended=lambda: over)
    assert (await asyncio.wait_for(anext(lines), 10)).text == "a"
    write(tmp_path, 0, None, (2.0, 1, b"b\nno end"))
    over = True
    assert [line.text async for line in lines] == ["b", "no end"]


async def test_follow_of_what_has_ended_is_what_there_is(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, (1.0, 1, b"a\nno end"))
    lines = ContainerLog(tmp_path).lines(10, follow=True, ended=lambda: True)
    assert [line.text async for line in lines] == ["a", "no end"]
