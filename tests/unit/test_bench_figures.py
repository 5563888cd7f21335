"""The benchmarks' arithmetic, table and plot. Not here: measuring anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import bench, report
from benchmarks.figures import Results, percentile, server_timing
from benchmarks.memory import parse_pss_kb
from benchmarks.suites import SUBJECTS, SUITES


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, share) for share in (0.0, 0.2, 0.5, 0.9, 1.0)] == [1.0, 1.0, 3.0, 5.0, 5.0]
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([float(n) for n in range(1, 101)], 0.99) == 99.0


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)


def test_a_row_holds_the_percentiles_and_how_many() -> None:
    row = Results().add("fork", "noop", [float(n) for n in range(1, 31)])
    assert (row.p50, row.p90, row.p99, row.n, row.role) == (15.0, 27.0, 30.0, 30, "quilt")


def test_a_figure_knows_its_side_of_the_target() -> None:
    results = Results()
    assert results.judge("fork", "p50", 6.0, "ms", 6.0).met
    assert not results.judge("fork", "p50", 6.01, "ms", 6.0).met
    assert results.judge("throughput", "share", 0.41, "", 0.40, at_least=True).met
    assert not results.judge("throughput", "share", 0.39, "", 0.40, at_least=True).met


def test_a_row_finds_the_floor_of_its_own_suite() -> None:
    results = _results()
    assert results.floor_of(results.rows[0]) is results.rows[1]
    assert results.floor_of(results.rows[2]) is None


def test_server_timing_is_read() -> None:
    assert server_timing("queue;dur=0.1, start;dur=2.5;desc=fork, cache") == {"queue": 0.1, "start": 2.5}
    assert server_timing("") == {}


def test_pss_is_the_line_of_that_name_only() -> None:
    rollup = "55e0-7fff ---p 00000000 00:00 0 [rollup]\nRss:  9000 kB\nPss:  1234 kB\nPss_Anon:  99 kB\n"
    assert parse_pss_kb(rollup) == 1234
    with pytest.raises(ValueError, match="Pss"):
        parse_pss_kb("Rss: 1 kB\n")


def test_the_table_says_ratio_target_and_verdict() -> None:
    text = report.markdown(_results(), {"kernel": "6.18", "criu": None}, quick=False)
    assert "| fork | noop | ms | 4 | 4 | 4 | 30 | × 4.00 | of which start 3.00 |" in text
    assert "| fork | noop — floor | ms | 1 | 1 | 1 | 30 |  | os.fork |" in text
    assert "| fork | noop, p50 | 4 ms | ≤ 6 ms | met |" in text
    assert "| throughput | share | 0.39 | ≥ 0.4 | **missed** |" in text
    assert "quick" not in text
    assert "not for the record" in report.markdown(_results(), {}, quick=True)


def test_only_a_whole_run_is_for_the_record() -> None:
    assert bench.place(None, quick=False) == (bench.RECORD, "latest")
    for suites, quick, name in ((None, True, "bench-quick"), (["fork", "boot"], False, "bench-boot-fork")):
        folder, found = bench.place(suites, quick=quick)
        assert found == name
        assert folder != bench.RECORD


def test_results_are_written_as_three_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot needs the extra `bench`")
    files = report.write(tmp_path, "latest", _results(), {"kernel": "6.18"}, quick=True)
    assert [file.name for file in files] == ["latest.json", "latest.md", "latest.png"]
    content = json.loads(files[0].read_text())
    assert content["quick"] is True
    assert content["rows"][0]["n"] == 30
    assert content["figures"][0]["met"] is True
    assert files[2].read_bytes().startswith(b"\x89PNG")


def test_every_suite_of_the_figures_is_there() -> None:
    assert list(SUITES) == ["warm", "throughput", "fork", "restore", "boot", "burst", "density", "containers"]
    for subject in SUBJECTS:
        compile(subject.source, subject.name, "exec")


def _results() -> Results:
    results = Results()
    results.add("fork", "noop", [4.0] * 30, note="of which start 3.00")
    results.add("fork", "noop", [1.0] * 30, role="floor", note="os.fork")
    results.add("restore", "noop", [40.0] * 30)
    results.judge("fork", "noop, p50", 4.0, "ms", 6.0)
    results.judge("throughput", "share", 0.39, "", 0.40, at_least=True)
    return results


def test_as_json_the_results_alone_are_on_stdout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def nothing(_name: str) -> Iterator[Any]:
        config = {"python": "/usr/bin/python3", "criu": None}
        yield SimpleNamespace(spawner_config=config, http=lambda: SimpleNamespace(close=lambda: None))

    class Measured(bench.Bench):
        def __init__(self, _private: object, http: Any, results: Results, _quick: bool) -> None:
            self.http, self.results = http, results

        def tidy(self) -> None:
            return None

    monkeypatch.setattr(bench, "platform", nothing)
    monkeypatch.setattr(bench, "Bench", Measured)
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda _name: object())
    monkeypatch.setattr(report, "plot", lambda _results, target: target.touch())
    monkeypatch.setattr(report, "environment", lambda _python, _criu: {"kernel": "6.18"})
    monkeypatch.setattr(bench, "RECORD", tmp_path)
    monkeypatch.setattr(bench, "SUITES", {"fork": lambda its: its.results.add("fork", "noop", [1.0, 2.0])})
    assert bench.main(["--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads((tmp_path / "latest.json").read_text())
    assert "fork: 0 s" in printed.err and "written to" in printed.err
    assert bench.main([]) == 0
    assert "fork: 0 s" in capsys.readouterr().out
