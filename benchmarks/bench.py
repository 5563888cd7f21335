"""`make bench`, `quilt bench`: every suite on a private platform; for the record in results/latest.{json,md,png}.

`--suite NAME` runs one, `--quick` with few runs; neither is for the record: they go to build/.
`--json` prints the results as they are kept, with progress on stderr. Exits non-zero where something could not be
measured; a target that is missed is said, and is in the results. Not here: what a suite does.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from pathlib import Path

from benchmarks import report
from benchmarks.figures import Results
from benchmarks.private import BUILD, REPOSITORY, PlatformFailed, platform
from benchmarks.suites import SUITES, Bench
from benchmarks.wire import CallFailed
from quilt_fn.cli.output import show_error
from quilt_fn.errors import Unavailable

RECORD = REPOSITORY / "benchmarks" / "results"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="quilt bench", description="Measure a platform of its own.")
    parser.add_argument("--suite", choices=sorted(SUITES), action="append", help="only this one (may be given again)")
    parser.add_argument("--quick", action="store_true", help="few runs, for a look; never for the record")
    parser.add_argument("--json", action="store_true", help="for programs: the results on stdout")
    wanted = parser.parse_args(argv)
    said = sys.stderr if wanted.json else sys.stdout
    if importlib.util.find_spec("matplotlib") is None:
        show_error(Unavailable("matplotlib is not installed; it is the extra `bench`"), as_json=wanted.json)
        return 2
    results, begun = Results(), time.monotonic()
    try:
        with platform("bench") as private:
            config = private.spawner_config
            about = report.environment(str(config["python"]), config["criu"])
            bench = Bench(private, private.http(), results, wanted.quick)
            for name in wanted.suite or SUITES:
                started = time.monotonic()
                SUITES[name](bench)
                bench.tidy()
                print(f"{name}: {time.monotonic() - started:.0f} s", file=said, flush=True)
            bench.http.close()
    except (PlatformFailed, CallFailed, OSError) as error:
        show_error(Unavailable(f"bench: {error}"), as_json=wanted.json)
        return 1
    about["seconds"] = round(time.monotonic() - begun)
    about["load_average_after"] = os.getloadavg()[0]
    folder, name = place(wanted.suite, quick=wanted.quick)
    files = report.write(folder, name, results, about, quick=wanted.quick)
    if wanted.json:
        print(files[0].read_text(), end="")
    else:
        print(report.markdown(results, about, quick=wanted.quick))
    print("written to " + ", ".join(str(file) for file in files), file=said)
    return 0


def place(suites: list[str] | None, *, quick: bool) -> tuple[Path, str]:
    """Folder and name of the results: only a whole run with all of its runs is for the record."""
    if not suites and not quick:
        return RECORD, "latest"
    return BUILD, "-".join(["bench", *sorted(set(suites or [])), *(["quick"] if quick else [])])


if __name__ == "__main__":
    sys.exit(main())
