"""The lines of a child, also where it ends with some of them unread."""

from __future__ import annotations

import asyncio
import os

from runtime.supervisor.output import Lines


def pipe() -> tuple[int, list[str], Lines]:
    """The end to write to, the lines that were taken, and what takes them."""
    read, write = os.pipe()
    taken: list[str] = []
    return write, taken, Lines(os.fdopen(read, "rb", buffering=0), taken.append)


async def test_lines_come_as_they_are_written() -> None:
    write, taken, lines = pipe()
    os.write(write, b"one\ntw")
    await asyncio.sleep(0.01)
    assert taken == ["one"]
    os.write(write, b"o\n")
    await asyncio.sleep(0.01)
    assert taken == ["one", "two"]
    lines.close()
    os.close(write)


async def test_closed_before_its_end_was_read() -> None:
    """By a child that was killed: its end of the pipe is closed, and nobody has looked since."""
    write, taken, lines = pipe()
    os.write(write, b"last\nwords")
    os.close(write)
    lines.close()
    assert taken == ["last", "words"]
    lines.close()


async def test_closed_after_its_end_was_read() -> None:
    write, taken, lines = pipe()
    os.write(write, b"words\n")
    os.close(write)
    await asyncio.sleep(0.01)
    lines.close()
    assert taken == ["words"]


async def test_closed_while_another_holds_it() -> None:
    """As the containers of a spawner that was killed do."""
    write, taken, lines = pipe()
    os.write(write, b"words\nand")
    lines.close()
    assert taken == ["words", "and"]
    os.close(write)
