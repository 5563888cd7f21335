"""Log files (split, rotate, bound) and the exposition of the figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from pool.log_files import FILES, LINE_LIMIT, LogFiles, Output
from pool.stats import SECONDS, Histogram

FUNCTION = f"fn_{'0' * 20}"


def output(stdout: bytes, invocation_id: str = "inv_1") -> Output:
    return Output(FUNCTION, invocation_id, "ins_1", 1.5, stdout, b"")


def test_lines_keep_what_is_needed_to_put_them_together_again() -> None:
    lines = list(output(b"a\n\nb").lines())
    assert [(line["text"], line.get("part", False)) for line in lines] == [("a", False), ("", False), ("b", True)]
    long = list(output(b"x" * (LINE_LIMIT + 1) + b"\n").lines())
    assert [len(line["text"]) for line in long] == [LINE_LIMIT, 1]


async def test_files_are_rotated_and_bounded(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path, 1)
    for number in range(12):
        await logs.append([output(b"y" * 1000 + b"\n", f"inv_{number}_{each}") for each in range(500)])
    files = sorted(path.name for path in (tmp_path / FUNCTION).iterdir())
    assert files == ["1.ndjson", "2.ndjson", "3.ndjson", "current.ndjson"]
    assert len(files) == FILES
    assert all(path.stat().st_size <= 1 << 20 for path in (tmp_path / FUNCTION).iterdir())
    last = await logs.read(FUNCTION, None, 2)
    assert [line["invocation_id"] for line in last] == ["inv_11_498", "inv_11_499"]
    await logs.delete(FUNCTION)
    assert not (tmp_path / FUNCTION).is_dir()
    assert await logs.read(FUNCTION, None, 2) == []


async def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path, 1)
    await logs.append([output(b"whole\n")])
    with (tmp_path / FUNCTION / "current.ndjson").open("ab") as file:
        file.write(b'{"t": 1, "stre')
    assert [line["text"] for line in await logs.read(FUNCTION, None, 10)] == ["whole"]


async def test_only_function_ids_become_paths(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path, 1)
    with pytest.raises(ValueError, match="not a function id"):
        await logs.read("../../etc", None, 1)


def test_a_histogram_counts_in_the_right_bucket() -> None:
    histogram = Histogram()
    for value in (0.00005, 0.0001, 0.0002, 1000.0):
        histogram.observe(value)
    assert histogram.counts[:2] == [2, 1]
    assert histogram.counts[-1] == 1
    assert len(histogram.counts) == len(SECONDS) + 1
