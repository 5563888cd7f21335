"""`import quilt_fn` and a user file with an App are light: the standard library only, as inside the sandbox."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = ("aiohttp", "pydantic", "rich", "click", "redis", "cloudpickle", "orjson", "yarl", "multidict")
USER_FILE = """
from quilt_fn import App, Response
app = App("x")
@app.function(memory_mb=64, requirements="nothing.txt", secrets=["NOT_THERE"])
def f(event):
    return Response({"got": event}, status=201)
assert f.__quilt_function__({}).status == 201 and f({}).body == {"got": {}}
"""


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", code + "\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_none_of_its_modules() -> None:
    assert not {name for name in modules_after("import quilt_fn") if name.startswith("quilt_fn.")}


def test_a_user_file_needs_the_standard_library_only() -> None:
    assert not modules_after(USER_FILE).intersection(HEAVY)


def test_help_imports_no_command() -> None:
    code = "from quilt_fn.cli.main import run\nassert run(['--help']) == 0"
    loaded = modules_after(code)
    assert not loaded.intersection(set(HEAVY) - {"click"})
    assert not {name for name in loaded if name.startswith("quilt_fn.cli.")} - {
        "quilt_fn.cli.main",
        "quilt_fn.cli.lazy",
    }


def test_all_names_are_there() -> None:
    import quilt_fn

    for name in quilt_fn.__all__:
        assert getattr(quilt_fn, name) is not None
    assert set(dir(quilt_fn)) == set(quilt_fn.__all__)
