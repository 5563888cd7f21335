"""`make bench`: every suite on a private platform, results for the record in benchmarks/results/latest.{json,md,png}.

`--suite NAME` runs one, `--quick` with few runs; neither is for the record: they go to build/.
Not here: what a suite does. Exits
non-zero where something could not be measured; a target that is missed is said, and is in the results.
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

RECORD = REPOSITORY / "benchmarks" / "results"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description="Measure a platform of its own.")
    parser.add_argument("--suite", choices=sorted(SUITES), action="append", help="only this one (may be given again)")
    parser.add_argument("--quick", action="store_true", help="few runs, for a look; never for the record")
    wanted = parser.parse_args(argv)
    if importlib.util.find_spec("matplotlib") is None:
        print("bench: matplotlib is not installed; it is the extra `bench`", file=sys.stderr)
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
                print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
            bench.http.close()
    except (PlatformFailed, CallFailed, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    about["seconds"] = round(time.monotonic() - begun)
    about["load_average_after"] = os.getloadavg()[0]
    folder, name = place(wanted.suite, quick=wanted.quick)
    files = report.write(folder, name, results, about, quick=wanted.quick)
    print(report.markdown(results, about, quick=wanted.quick))
    print("written to " + ", ".join(str(file.relative_to(REPOSITORY)) for file in files))
    return 0


def place(suites: list[str] | None, *, quick: bool) -> tuple[Path, str]:
    """Folder and name of the results: only a whole run with all of its runs is for the record."""
    if not suites and not quick:
        return RECORD, "latest"
    return BUILD, "-".join(["bench", *sorted(set(suites or [])), *(["quick"] if quick else [])])


if __name__ == "__main__":
    sys.exit(main())
