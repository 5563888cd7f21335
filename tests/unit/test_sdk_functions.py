"""Functions of an app, here and on a fake platform whose instances are processes of their own."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quilt_fn import App, Client, Function, RemoteTraceback, sources
from quilt_fn.errors import (
    BuildFailed,
    Conflict,
    FunctionNotFound,
    HandlerError,
    InvalidValue,
    PythonMismatch,
    ResultNotSerialisable,
)
from tests.fakes_sdk.gateway import KEY, MINOR, ROOT, FakeGateway

USER_FILE = '''
import helper
from quilt_fn import App

app = App()

class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y

class Special(Exception):
    def __init__(self, code):
        super().__init__(f"code {code}")
        self.code = code
    def __reduce__(self):
        return Special, (self.code,)

@app.function(memory_mb=128, timeout_s=5, min_instances=1, public=True, secrets={"TOKEN": "t"},
              before_snapshot=helper.warm, after_restore=[helper.warm, "helper:warm"], environment={"A": "b"})
def add(a, b=0):
    """Adds."""
    return helper.add(a, b)

@app.function()
def moved(point, by=1):
    assert isinstance(point, Point), type(point)
    return Point(point.x + by, point.y)

@app.function()
def fails(code):
    print("about to fail")
    raise Special(code)

@app.function()
def yields():
    yield 1
'''
HELPER = "def add(a, b):\n    return a + b\ndef warm():\n    pass\n"


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway() as running:
        yield running


@pytest.fixture
def client(gateway: FakeGateway) -> Iterator[Client]:
    made = Client(gateway.url, KEY)
    yield made
    made.close()


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Client) -> Iterator[ModuleType]:
    """A user's file, imported as a module beside its helper and a file that is not needed."""
    from quilt_fn.cli import user_app

    (tmp_path / "userfile.py").write_text(USER_FILE)
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "unrelated.py").write_text("1/0")
    monkeypatch.setattr(sys, "path", list(sys.path))
    module = user_app.load(tmp_path / "userfile.py")
    module.app.client = client
    yield module
    for name in ("userfile", "helper"):
        sys.modules.pop(name, None)


def files_of(gateway: FakeGateway, function: dict[str, Any]) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(gateway.bundles[function["bundle_id"]]), mode="r:gz") as archive:
        return archive.getnames()


def test_it_stays_the_plain_function_here(user: ModuleType, gateway: FakeGateway) -> None:
    assert user.add(1, b=2) == user.add.local(1, 2) == 3
    assert user.add.__name__ == "add" and user.add.__doc__ == "Adds."
    assert callable(user.add.__quilt_function__) and not gateway.requests


def test_the_first_remote_call_deploys_and_later_ones_do_not(user: ModuleType, gateway: FakeGateway) -> None:
    assert user.add.remote(1, b=2) == 3
    assert user.add.remote("a", "b") == "ab"
    (function,) = gateway.functions.values()
    assert files_of(gateway, function) == ["helper.py", "userfile.py"]
    assert function["handler"] == "userfile:add" and function["python"] is None
    assert (function["memory_limit_mb"], function["timeout_seconds"], function["min_instances"]) == (128, 5, 1)
    assert function["auth"] == "public" and function["environment"] == {"A": "b"}
    assert function["hooks"] == {"before_snapshot": ["helper:warm"], "after_restore": ["helper:warm", "helper:warm"]}
    assert function["secret_values"] == {"TOKEN": "t"}
    deploys = [path for _, path in gateway.requests if path.endswith("/deploy")]
    assert len(deploys) == 1


def test_another_process_finds_it_deployed_and_redeploys_what_changed(user: ModuleType, gateway: FakeGateway) -> None:
    user.add.deploy()
    user.add._deployed = None
    gateway.requests.clear()
    assert user.add.remote(1, 1) == 2
    assert [path for _, path in gateway.requests] == ["/api/functions/by-name/add", "/fn/add"]
    user.add._deployed = None
    user.add.options["secrets"] = {"TOKEN": "changed"}
    assert user.add.remote(1, 1) == 2
    (function,) = gateway.functions.values()
    assert function["version"] == 2 and function["secret_values"] != function["secrets"]
    assert "changed" not in str(function["labels"])


def test_the_async_twin_and_concurrent_first_calls_deploy_once(user: ModuleType, gateway: FakeGateway) -> None:
    async def main() -> list[int]:
        return list(await asyncio.gather(*(user.add.remote.aio(n, n) for n in range(3))))

    assert asyncio.run(main()) == [0, 2, 4]
    assert sum(path.endswith("/deploy") for _, path in gateway.requests) == 1


def test_objects_of_the_file_are_the_same_on_both_sides(user: ModuleType) -> None:
    point = user.moved.remote(user.Point(1, 2), by=5)
    assert type(point) is user.Point and (point.x, point.y) == (6, 2)


def test_the_remote_exception_is_raised_again_with_its_traceback(user: ModuleType) -> None:
    with pytest.raises(user.Special, match="code 7") as caught:
        user.fails.remote(7)
    assert caught.value.code == 7
    cause = caught.value.__cause__
    assert isinstance(cause, RemoteTraceback) and "raise Special(code)" in str(cause)
    assert isinstance(cause.error, HandlerError) and cause.error.details is not None
    assert cause.error.details["type"] == "Special"


def test_an_exception_or_result_that_cannot_be_opened_here(user: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    user.fails.deploy()
    monkeypatch.delattr(user, "Special")
    with pytest.raises(HandlerError, match="Special: code 7") as caught:
        user.fails.remote(7)
    assert "cannot be opened here" in caught.value.__notes__[0]
    assert "raise Special(code)" in str(caught.value.__cause__)
    point = user.Point(1, 2)
    user.moved.deploy()
    from quilt_fn import pickling

    data = pickling.dumps(((point,), {}))
    monkeypatch.delattr(user, "Point")
    monkeypatch.setattr("quilt_fn.remote.dumps_call", lambda *_: data)
    with pytest.raises(ResultNotSerialisable, match="cannot be opened here"):
        user.moved.remote(point)


def test_an_argument_that_cannot_be_pickled(user: ModuleType) -> None:
    with pytest.raises(InvalidValue, match="an argument cannot be pickled"):
        user.add.remote((n for n in ()), 1)


def test_map_and_starmap(user: ModuleType, gateway: FakeGateway) -> None:
    gateway.handler = lambda call: sum(call[0])
    assert list(user.add.map(range(5))) == [0, 1, 2, 3, 4]
    assert list(user.add.map(iter([3, 1]), max_concurrency=1)) == [3, 1]
    assert sorted(user.add.map([1, 2, 3], order_outputs=False)) == [1, 2, 3]
    assert list(user.add.starmap([(1, 2), [3, 4]])) == [3, 7]

    async def main() -> list[int]:
        return [n async for n in user.add.map.aio([1, 2], max_concurrency=2)]

    assert asyncio.run(main()) == [1, 2]
    gateway.most_calls_at_once = 0
    assert len(list(user.add.map(range(40), max_concurrency=3))) == 40
    assert 1 <= gateway.most_calls_at_once <= 3
    with pytest.raises(InvalidValue, match="at least 1"):
        list(user.add.map([], max_concurrency=0))
    with pytest.raises(TypeError, match="not an async one"):
        list(user.add.map(_endless()))


async def _endless() -> Any:
    yield 1


def test_map_raises_the_first_exception_or_returns_each(user: ModuleType) -> None:
    results = list(user.fails.map([1, 2], return_exceptions=True))
    assert [type(result) is user.Special and result.code for result in results] == [1, 2]
    with pytest.raises(user.Special):
        list(user.fails.map([1, 2]))


def test_a_generator_has_no_single_value(user: ModuleType, gateway: FakeGateway) -> None:
    with pytest.raises(InvalidValue, match="yields") as caught:
        user.yields.remote()
    assert f"{gateway.url}/fn/yields" in str(caught.value.hint) and list(user.yields()) == [1]


def test_app_deploy_deploys_all(user: ModuleType, gateway: FakeGateway) -> None:
    seen: list[tuple[str, str]] = []
    records = user.app.deploy(lambda name, step: seen.append((name, step.stage)))
    assert [record.name for record in records] == ["add", "moved", "fails", "yields"]
    assert ("moved", "snapshot") in seen and ("add", "upload") in seen
    assert user.app.deploy()[0].version == 2


def test_a_failing_deploy_raises(user: ModuleType, gateway: FakeGateway) -> None:
    gateway.build_error = BuildFailed("no", details={"stage": "layer"})
    with pytest.raises(BuildFailed):
        user.add.remote(1)
    gateway.build_error = None
    assert user.add.remote(1) == 1


def test_functions_without_a_file_are_pickled(client: Client, gateway: FakeGateway) -> None:
    app = App("lab", client=client)
    factor = 3

    @app.function()
    def times(n: int) -> int:
        return n * factor

    @app.function()
    def twice(n: int) -> int:
        return times(n) + times(n)

    assert times.remote(5) == 15 and twice.remote(5) == 30
    function = gateway.functions["fn_0"]
    assert function["name"] == "lab-times" and function["handler"] == "pickle:function" and function["python"] == MINOR
    assert "function.pkl" in files_of(gateway, function)


def test_another_python_is_refused_with_both_named(
    client: Client, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App(client=client)
    f = app.function(lambda: 1)
    f.name = "f"
    monkeypatch.setattr("tests.fakes_sdk.gateway.MINOR", "3.99")
    with pytest.raises(PythonMismatch, match=rf"{MINOR}.*3\.99"):
        f.remote()


def test_a_call_from_another_python_is_refused_too(
    user: ModuleType, client: Client, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    user.add.deploy()
    assert Function.from_name("add", client).remote(1, b=2) == 3
    monkeypatch.setattr("quilt_fn.remote.MINOR", "3.99")
    with pytest.raises(PythonMismatch, match=rf"3\.99.*{MINOR}"):
        Function.from_name("add", client).remote(1, b=2)


def test_values_that_the_api_refuses_are_named_before_anything_is_sent(client: Client, gateway: FakeGateway) -> None:
    app = App(client=client)
    f = app.function(memory_mb=1, timeout_s=0, secrets={"bad name": "hidden"}, name="f")(lambda: 1)
    with pytest.raises(InvalidValue, match="memory_limit_mb") as caught:
        f.deploy()
    assert caught.value.details is not None
    assert {item["field"].split(".")[0] for item in caught.value.details["fields"]} == {
        "memory_limit_mb", "timeout_seconds", "secrets"}  # fmt: skip
    assert "hidden" not in str(caught.value.details) and not gateway.functions


def test_hooks_must_be_found_by_name(client: Client) -> None:
    f = App(client=client).function(name="f", before_snapshot=lambda: None)(lambda: 1)
    with pytest.raises(InvalidValue, match="hook"):
        f.deploy()


def test_from_name_calls_what_is_there(user: ModuleType, client: Client, gateway: FakeGateway) -> None:
    user.add.deploy()
    gateway.requests.clear()
    other = Function.from_name("add", client)
    assert other.remote(2, 2) == 4 and list(other.map([1])) == [1]
    assert gateway.requests == [("POST", "/fn/add")] * 2
    with pytest.raises(FunctionNotFound):
        Function.from_name("absent", client).remote()


def test_inside_a_sandbox_remote_is_refused(user: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "_quilt_guest", ModuleType("_quilt_guest"))
    with pytest.raises(Conflict, match="inside a function's sandbox"):
        user.add.remote(1)


@pytest.mark.parametrize("how", ["script", "module"])
def test_a_script_s_main_is_the_module_of_its_functions(tmp_path: Path, gateway: FakeGateway, how: str) -> None:
    """Classes of `__main__` are the same ones here and there, by argument, result and exception."""
    folder = tmp_path / "pkg" if how == "module" else tmp_path
    folder.mkdir(exist_ok=True)
    if how == "module":
        (folder / "__init__.py").write_text("")
        (folder / "data.txt").write_text("x")
    else:
        (folder / "helper.py").write_text(HELPER)
    (folder / "userfile.py").write_text(
        USER_FILE.replace("import helper", "import helper" if how == "script" else "from pkg import helper")
        + "\nif __name__ == '__main__':\n"
        "    p = moved.remote(Point(1, 2))\n"
        "    assert type(p) is Point, type(p)\n"
        "    try:\n        fails.remote(3)\n"
        "    except Special as error:\n        print(p.x, error.code)\n"
    )
    if how == "module":
        (folder / "helper.py").write_text(HELPER)
    command = ["userfile.py"] if how == "script" else ["-m", "pkg.userfile"]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "QUILT_URL": gateway.url, "QUILT_API_KEY": KEY, "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("2 3\n", 0), done.stderr
    assert "Unclosed" not in done.stderr
    function = gateway.functions["fn_0"]
    expected = {"script": "userfile:moved", "module": "pkg.userfile:moved"}[how]
    assert function["handler"] == expected
    if how == "module":
        assert "pkg/data.txt" in files_of(gateway, function)


def test_code_on_stdin_is_a_repl(tmp_path: Path, gateway: FakeGateway) -> None:
    code = (
        "from quilt_fn import App\napp = App()\nfactor = 2\n"
        "class P:\n    def __init__(self, n): self.n = n\n"
        "@app.function()\ndef f(p): return P(g(p.n) * factor)\n"
        "@app.function()\ndef g(n): return n + 1\n"
        "r = f.remote(P(4)); print(type(r) is P, r.n)\n"
    )
    done = subprocess.run(
        [sys.executable, "-"], input=code, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": str(ROOT), "QUILT_URL": gateway.url, "QUILT_API_KEY": KEY, "PATH": "/usr/bin"},
    )  # fmt: skip
    assert done.stdout == "True 10\n", done.stderr


def test_include_and_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quilt_fn.cli import user_app

    for name in ("top/__init__.py", "top/inner.py", "top/data/x.csv", "more/a.txt", "one.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "top/inner.py").write_text("def f(event):\n    return 1\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    module = user_app.load(tmp_path / "top/inner.py")
    try:
        found = sources.of_function(module.f, ["more", "one.txt"])
        assert found.handler == "top.inner:f"
        assert sorted(found.entries) == ["more/a.txt", "one.txt", "top/__init__.py", "top/data/x.csv", "top/inner.py"]
        with pytest.raises(Exception, match="outside of"):
            sources.of_function(module.f, ["../x"])
    finally:
        for name in ("top", "top.inner"):
            sys.modules.pop(name)
