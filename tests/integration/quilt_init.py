"""What the tests of init and of the filters share: the program, built as set-up does, and filters loaded by ctypes.

Not a test itself, and not for anything that the project runs.
"""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.slowness import patience

PATIENCE_S = patience(20.0)

SOURCES = sorted((Path(__file__).parents[2] / "runtime" / "guest" / "init").glob("*.c"))

LOADER = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
assert libc.prctl(38, 1, 0, 0, 0) == 0
for path in json.loads(sys.argv[1]):
    code = open(path, "rb").read()
    buffer = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.addressof(buffer))
    assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0, os.strerror(ctypes.get_errno())
"""


@functools.cache
def program() -> Path:
    """quilt-init, compiled with set-up's flags into a folder of its own."""
    folder = tempfile.mkdtemp(prefix="quilt-test-init-")
    atexit.register(shutil.rmtree, folder)
    path = Path(folder) / "quilt-init"
    flags = ["-static", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *flags, "-o", path, *SOURCES], check=True)
    path.parent.chmod(0o755)
    return path


@functools.cache
def filter_file(kind: str) -> Path:
    path = program().with_name(f"{kind}.bpf")
    path.write_bytes(subprocess.run([program(), "filter", kind], check=True, capture_output=True).stdout)
    return path


def under(filters: tuple[str, ...], source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python `source` under these filters, stacked in this order. `libc` and `json` are there; sys.argv[2:] too."""
    files = json.dumps([str(filter_file(kind)) for kind in filters])
    command = [sys.executable, "-c", LOADER + source, files, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def wait_for(what: str, look: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    """The first true value of `look`. Fails the test with `what` when it does not come."""
    deadline = time.monotonic() + timeout_s
    while not (value := look()):
        assert time.monotonic() < deadline, f"{what} did not come within {timeout_s} s"
        time.sleep(0.01)
    return value
