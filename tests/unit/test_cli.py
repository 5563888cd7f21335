"""The command line against a fake gateway: what goes to stdout and stderr, and the exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from benchmarks.bench import main as bench
from quilt_fn.cli import main as cli
from quilt_fn.cli import platform, reference
from quilt_fn.errors import BuildFailed, Conflict, HookFailed, LimitReached, RateLimited, RouteNotFound
from runtime import service
from runtime.doctor.__main__ import main as doctor
from runtime.supervisor import __main__ as supervisor
from tests.fakes_sdk.gateway import KEY, ROOT, FakeGateway

HANDLER = "def handler(event, context):\n    return event\n"


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeGateway]:
    monkeypatch.setattr("quilt_fn.connection.RETRY_PAUSES_S", ())
    monkeypatch.setattr(sys, "path", list(sys.path))
    with FakeGateway() as running:
        monkeypatch.setenv("QUILT_URL", running.url)
        monkeypatch.setenv("QUILT_API_KEY", KEY)
        monkeypatch.chdir(tmp_path)
        yield running
        from quilt_fn import twins

        twins.background.stop()


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def quilt(gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> Result:
        code = 0
        try:
            code = cli.run(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def archive_of(gateway: FakeGateway, name: str) -> list[str]:
    function = next(f for f in gateway.functions.values() if f["name"] == name)
    with tarfile.open(fileobj=io.BytesIO(gateway.bundles[function["bundle_id"]]), mode="r:gz") as archive:
        return archive.getnames()


def the_function(gateway: FakeGateway) -> dict[str, Any]:
    (function,) = gateway.functions.values()
    return function


# --- help ---------------------------------------------------------------------------------------------------------


def test_the_list_of_commands_says_what_the_commands_say() -> None:
    with cli.quilt.make_context("quilt", ["up"]) as ctx:
        for name, where in cli.COMMANDS.items():
            command = cli.quilt.get_command(ctx, name)
            assert command is not None and command.name == name
            assert command.short_help == where.help
            assert (command.help or "").startswith(where.help)


def test_the_reference_page_is_what_the_commands_say() -> None:
    page = ROOT / "docs" / "reference" / "cli.md"
    assert page.read_text() == reference.page(), "run: python -m quilt_fn.cli.reference > docs/reference/cli.md"


def test_help_version_and_no_command(quilt: Any) -> None:
    assert quilt("--help").code == 0 and quilt("deploy", "-h").code == 0
    assert quilt("--version").out.startswith("quilt 0.")
    assert quilt().code == 2
    assert "No such command" in quilt("fly").err


@pytest.mark.parametrize("command", [["deploy"], ["invoke"], ["functions", "get"], ["logs", "f", "--limit", "0"]])
def test_usage_errors_exit_2(quilt: Any, command: list[str]) -> None:
    assert quilt(*command).code == 2


@pytest.mark.parametrize(
    ("command", "module", "first"),
    [
        ("up", "runtime.supervisor", ["up"]),
        ("down", "runtime.supervisor", ["down"]),
        ("status", "runtime.supervisor", ["status"]),
        ("doctor", "runtime.doctor", []),
        ("service", "runtime.service", []),
        ("bench", "benchmarks.bench", []),
    ],
)
def test_programs_of_other_rooms_take_over(
    quilt: Any, monkeypatch: pytest.MonkeyPatch, command: str, module: str, first: list[str]
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(platform.os, "execv", lambda _program, argv: seen.append(argv))
    quilt(command, "--json", "--help", "-x", "install")
    assert seen == [[sys.executable, "-P", "-m", module, *first, "--json", "--help", "-x", "install"]]


PROGRAMS = {
    "quilt up": supervisor.main, "quilt down": supervisor.main, "quilt status": supervisor.main, "quilt doctor": doctor,
    "quilt service": service.main, "quilt bench": bench,
}  # fmt: skip


def commands(path: str, command: click.Command, ctx: click.Context) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by what is typed for it."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name in command.list_commands(ctx):
        inner = command.get_command(ctx, name)
        assert inner is not None
        yield from commands(f"{path} {name}", inner, ctx)


def test_every_command_takes_json(capsys: pytest.CaptureFixture[str]) -> None:
    with cli.quilt.make_context("quilt", ["up"]) as ctx:
        found = dict(commands("quilt", cli.quilt, ctx))
    assert len(found) >= 60
    silent = {path for path, command in found.items() if not any("--json" in each.opts for each in command.params)}
    for path, main in PROGRAMS.items():
        words = [path.split()[1]] if main is supervisor.main else []
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        assert "--json" in capsys.readouterr().out, path
    assert silent == set(PROGRAMS)


def test_programs_of_other_rooms_say_usage_as_it_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    for path, main in PROGRAMS.items():
        words = [path.split()[1]] if main is supervisor.main else []
        for wrong in ("--help", "--jsonn"):
            with pytest.raises(SystemExit):
                main([*words, wrong])
            printed = capsys.readouterr()
            assert (printed.out + printed.err).startswith(f"usage: {path} "), path


def test_a_terminal_prints_no_json(quilt: Any) -> None:
    refused = quilt("shell", "box", "--json")
    assert refused.code == 2 and "quilt exec --json" in refused.err


# --- deploy -------------------------------------------------------------------------------------------------------


def test_deploy_a_folder_with_all_options(quilt: Any, gateway: FakeGateway, tmp_path: Path) -> None:
    folder = tmp_path / "my_fn"
    folder.mkdir()
    (folder / "handler.py").write_text(HANDLER)
    (folder / "requirements.txt").write_text("six\n")
    (tmp_path / "other.txt").write_text("numpy\n")
    result = quilt(
        "deploy", "my_fn", "--memory-mb", "512", "--cpu-percent", "50", "--timeout", "5", "--min", "1", "--max", "3",
        "--buffer", "2", "--public", "--env", "A=b=c", "--secret", "S=t", "--network", "none", "--warmup", "[1]",
        "--before-snapshot", "handler:x", "--before-snapshot", "handler:y",
    )  # fmt: skip
    assert (result.code, result.out) == (0, f"{gateway.url}/fn/my-fn\n")
    assert [line.split()[0] for line in result.err.splitlines()] == [
        "my-fn:", "upload", "bundle", "layer", "boot", "import", "snapshot"]  # fmt: skip
    assert "1.5 ms" in result.err
    f = the_function(gateway)
    assert f["handler"] == "handler:handler" and f["requirements"] == ["six"]
    assert (f["memory_limit_mb"], f["cpu_limit_percent"], f["timeout_seconds"]) == (512, 50, 5)
    assert (f["min_instances"], f["max_instances"], f["buffer_instances"]) == (1, 3, 2)
    assert (f["auth"], f["network"], f["environment"], f["secret_values"]) == (
        "public",
        "none",
        {"A": "b=c"},
        {"S": "t"},
    )
    assert f["warmup_event"] == [1] and f["hooks"]["before_snapshot"] == ["handler:x", "handler:y"]
    assert archive_of(gateway, "my-fn") == ["handler.py", "requirements.txt"]

    again = quilt("deploy", "my_fn", "--requirements", "other.txt", "--json")
    assert again.json["functions"][0]["version"] == 2 and again.err == ""
    assert the_function(gateway)["requirements"] == ["numpy"] and the_function(gateway)["memory_limit_mb"] == 256
    changed = again.json["functions"][0]["changed"]
    assert {"auth: public → key", "memory_limit_mb: 512 → 256", "requirements: six → numpy", "secrets: S → none",
            "environment: A → none", "warmup_event: [1] → none"} <= set(changed)  # fmt: skip


def test_a_deploy_says_which_options_it_takes_back(quilt: Any, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(HANDLER)
    first = quilt("deploy", "f.py", "--public", "--env", "A=hidden1", "--env", "B=same", "--secret", "S=hidden2")
    assert "changes" not in first.err
    same = quilt("deploy", "f.py", "--public", "--env", "A=hidden1", "--env", "B=same", "--secret", "S=hidden2")
    assert "changes" not in same.err
    other = quilt("deploy", "f.py", "--public", "--env", "A=hidden3", "--env", "B=same", "--secret", "S=hidden2")
    assert "environment: A changed" in other.err and "B" not in other.err.splitlines()[1]
    back = quilt("deploy", "f.py")
    said = [line.split(maxsplit=1)[1] for line in back.err.splitlines() if "changes" in line]
    assert said == ["environment: A, B → none", "secrets: S → none", "auth: public → key"]
    assert "hidden" not in other.err + back.err
    assert back.out == first.out


def test_deploy_a_file_brings_what_it_imports(quilt: Any, gateway: FakeGateway, tmp_path: Path) -> None:
    (tmp_path / "report.py").write_text("import part, os\ndef lambda_handler(event): return part.x\n")
    (tmp_path / "part.py").write_text("x = 1\n")
    (tmp_path / "not_needed.py").write_text("x = 1\n")
    assert quilt("deploy", "report.py").code == 0
    assert the_function(gateway)["handler"] == "report:lambda_handler"
    assert archive_of(gateway, "report") == ["part.py", "report.py"]


def test_deploy_a_lambda_by_its_own_name(quilt: Any, gateway: FakeGateway) -> None:
    example = str(ROOT / "examples" / "lambda")
    assert quilt("deploy", example, "--name", "greet", "--handler", "lambda_function.lambda_handler").code == 0
    assert the_function(gateway)["handler"] == "lambda_function.lambda_handler"


def test_deploy_an_app_all_or_one(quilt: Any, gateway: FakeGateway) -> None:
    path = str(ROOT / "examples" / "app" / "app.py")
    try:
        result = quilt("deploy", path)
        assert result.out == f"{gateway.url}/fn/primes-count\n{gateway.url}/fn/primes-where\n", result.err
        assert quilt("deploy", path + "::where").out == f"{gateway.url}/fn/primes-where\n"
        absent = quilt("deploy", path + "::absent")
        assert absent.code == 3 and "primes-count, primes-where" in absent.err
        mixed = quilt("deploy", path, "--memory-mb", "64")
        assert mixed.code == 2 and "--memory-mb" in mixed.err
    finally:
        sys.modules.pop("app", None)


@pytest.mark.parametrize(
    ("files", "arguments", "code", "message"),
    [
        ({}, ["nowhere"], 2, "does not exist"),
        ({"a.py": "x = 1"}, ["a.py"], 2, "no function named handler"),
        ({"a.py": "def ("}, ["a.py"], 2, "is no Python file"),
        ({"f/x.py": HANDLER, "f/y.py": HANDLER}, ["f"], 2, "name it with --handler"),
        ({"f/x.txt": ""}, ["f"], 2, "name it with --handler"),
        ({"a.py": HANDLER}, ["a.py::f"], 2, "names a function of an App"),
        ({"a.py": HANDLER}, ["a.py", "--env", "NOPE"], 2, "NAME=VALUE"),
        ({"a.py": HANDLER}, ["a.py", "--warmup", "{"], 2, "not JSON"),
        ({"a.py": HANDLER}, ["a.py", "--memory-mb", "1"], 2, "memory_limit_mb"),
        ({"a.py": HANDLER}, ["a.py", "--name", "Bad_Name"], 2, "name:"),
        ({"a.py": HANDLER, "r.txt": "-e ."}, ["a.py", "--requirements", "r.txt"], 2, "r.txt, line 1"),
        ({"quilt_it.py": "from quilt_fn import App\nApp()\n1/0"}, ["quilt_it.py"], 5, "ZeroDivisionError"),
        ({"empty_app.py": "from quilt_fn import App\napp = App()"}, ["empty_app.py"], 3, "no function of an App"),
        ({"json.py": "from quilt_fn import App\napp = App()"}, ["json.py"], 6, "rename the file"),
        ({"bad-name.py": HANDLER}, ["bad-name.py"], 2, "Python identifier"),
    ],
)
def test_deploys_that_cannot_be(
    quilt: Any,
    gateway: FakeGateway,
    tmp_path: Path,
    files: dict[str, str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    result = quilt("deploy", *arguments)
    sys.modules.pop("empty_app", None)
    assert (result.code, result.out) == (code, "") and message in result.err
    assert not gateway.functions


def test_a_build_that_fails_shows_its_traceback(quilt: Any, gateway: FakeGateway, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(HANDLER)
    gateway.build_error = BuildFailed(
        "the import failed", details={"stage": "import", "traceback": "Traceback\n  x", "output": "said\n"}, hint="h"
    )
    result = quilt("deploy", "a.py")
    assert (result.code, result.out) == (5, "")
    assert result.err.endswith("said\nTraceback\n  x\nerror (import): the import failed\nhint: h\n")
    error = json.loads(quilt("deploy", "a.py", "--json").err)
    assert error["error_code"] == "BUILD_FAILED" and error["details"]["stage"] == "import"


# --- invoke -------------------------------------------------------------------------------------------------------


@pytest.fixture
def deployed(quilt: Any, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(HANDLER)
    assert quilt("deploy", "f.py").code == 0


@pytest.mark.usefixtures("deployed")
def test_invoke_prints_the_result_and_what_was_written(
    quilt: Any, gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.invocation = {"stdout": "said\n", "stderr": "warned", "result": {"ü": 1}}
    result = quilt("invoke", "f", "--data", '{"a": 1}')
    assert (result.code, result.out, result.err) == (0, '{"ü": 1}\n', "said\nwarned\n")
    gateway.invocation = {"result": "text"}
    (tmp_path / "event.json").write_text("[1]")
    assert quilt("invoke", "f", "--data", "@event.json").out == "text\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("[2]"))
    assert quilt("invoke", "f", "--data", "-", "--timeout", "3").code == 0
    assert quilt("invoke", "f").code == 0 and quilt("invoke", "f", "--text", "--data", "[3]").code == 0
    assert [event["payload"] for event in gateway.events] == [{"a": 1}, [1], [2], None, '"[3]"']
    assert gateway.events[2]["timeout_seconds"] == 3
    assert quilt("invoke", "f", "--json").json["invocation_id"] == "inv_1"
    for data in ("{", "@absent"):
        assert quilt("invoke", "f", "--data", data).code == 2


@pytest.mark.usefixtures("deployed")
def test_invoke_of_octets(gateway: FakeGateway) -> None:
    gateway.invocation = {"result": {"isBase64Encoded": True, "body": "/9j/"}}
    done = subprocess.run([sys.executable, "-m", "quilt_fn.cli.main", "invoke", "f"], capture_output=True, cwd=ROOT)
    assert done.stdout == b"\xff\xd8\xff" and done.returncode == 0


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"status": "failed", "error_code": "HANDLER_ERROR"}, 5),
        ({"status": "failed", "error_code": "HANDLER_OUT_OF_MEMORY"}, 5),
        ({"status": "failed", "error_code": "INSTANCE_DIED"}, 5),
        ({"status": "failed"}, 5),
        ({"status": "timeout", "error_code": "INVOCATION_TIMEOUT"}, 124),
    ],
)
def test_invoke_that_failed(quilt: Any, gateway: FakeGateway, record: dict[str, Any], code: int) -> None:
    error = {
        "type": "ValueError",
        "message": "boom",
        "traceback": "Traceback (most recent call last):\nValueError: boom",
    }
    gateway.invocation = record | {"error": error, "error_message": "ValueError: boom", "stdout": "before\n"}
    result = quilt("invoke", "f")
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith("before\nTraceback") and "ValueError: boom (inv_1)" in result.err
    as_json = quilt("invoke", "f", "--json")
    assert as_json.code == code and as_json.json["status"] == record["status"]


@pytest.mark.usefixtures("deployed")
def test_a_hook_that_fails_is_the_users_own_and_shows_its_traceback(quilt: Any, gateway: FakeGateway) -> None:
    gateway.fail_next(HookFailed("a hook failed", details={"stage": "after_restore", "traceback": "Traceback\n  x"}))
    result = quilt("pool")
    assert (result.code, result.err) == (5, "Traceback\n  x\nerror (after_restore): a hook failed\n")


def test_exit_codes_of_the_platform_s_errors(quilt: Any, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    assert quilt("invoke", "absent").code == 3 and quilt("logs", "absent").code == 3
    for error, code in ((Conflict("c"), 6), (LimitReached("l"), 6)):
        gateway.fail_next(error)
        assert quilt("functions", "list").code == code
    monkeypatch.setenv("QUILT_API_KEY", "quilt_sk_wrong")
    assert quilt("functions", "list").code == 4
    monkeypatch.setenv("QUILT_URL", "http://127.0.0.1:1")
    result = quilt("functions", "list")
    assert result.code == 1 and "hint: start one with `quilt up`" in result.err
    monkeypatch.setenv("QUILT_PORT", "x")
    assert quilt("functions", "list").code == 2


def test_ctrl_c_is_130(quilt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("quilt_fn.client.Client.pool_stats", interrupted)
    assert quilt("pool").code == 130


# --- the rest -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("deployed")
def test_functions(quilt: Any, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = quilt("functions", "list")
    assert listed.code == 0 and "invocations" in listed.out and "active" in listed.out
    assert quilt("functions", "list", "--json").json["functions"][0]["name"] == "f"
    shown = quilt("functions", "get", "f").out
    assert "f:handler" in shown and f"{gateway.url}/fn/f" in shown
    assert quilt("functions", "get", "f", "--json").json["name"] == "f"

    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    refused = quilt("functions", "delete", "f")
    assert refused.code == 2 and "--yes" in refused.err and gateway.functions
    assert quilt("functions", "delete", "f", "absent", "--yes").code == 3 and gateway.functions
    assert quilt("functions", "delete", "f", "--yes", "--json").json == {"deleted": ["fn_0"]}
    assert not gateway.functions
    empty = quilt("functions", "list")
    assert (empty.code, empty.out) == (0, "") and "no functions" in empty.err


@pytest.mark.usefixtures("deployed")
def test_what_is_set_of_a_function_is_shown(quilt: Any, gateway: FakeGateway) -> None:
    plain = quilt("functions", "get", "f").out
    assert "256 processes" in plain and "end after 300 s" in plain and "1000 at most" in plain
    assert not any(row in plain for row in ("recycled", "volumes", "before snapshot", "after restore", "warm-up"))
    the_function(gateway).update(
        recycle_after_invocations=5, recycle_memory_growth_mb=7, volumes=["data:/data"], warmup_event={"a": 1},
        hooks={"before_snapshot": ["f:warm"], "after_restore": ["f:again"]}, max_queue=3, pids_limit=33,
    )  # fmt: skip
    shown = quilt("functions", "get", "f").out
    for text in ("5 invocations or a growth by 7 MB", "data:/data", '{"a": 1}', "f:warm", "f:again", "3 at most", "33"):
        assert text in shown


@pytest.mark.usefixtures("deployed")
def test_a_newer_version_that_failed_is_told_apart_from_the_one_that_serves(quilt: Any, gateway: FakeGateway) -> None:
    the_function(gateway).update(version=2, current_version=1, error_message="BUILD_FAILED: no module x")
    shown = quilt("functions", "get", "f").out
    assert "active:" not in shown
    assert "version 2 failed: BUILD_FAILED: no module x; version 1 serves" in shown
    the_function(gateway).update(version=1, current_version=None, state="error")
    assert "error: BUILD_FAILED: no module x" in quilt("functions", "get", "f").out


@pytest.mark.usefixtures("deployed")
def test_functions_are_paused_and_resumed(quilt: Any, gateway: FakeGateway) -> None:
    for command in ("pause", "resume"):
        assert quilt("functions", command, "f", "absent").code == 3  # and nothing was done to f:
        assert ("POST", f"/api/functions/fn_0/{command}") not in gateway.requests
        assert f"{command}d f" in quilt("functions", command, "f").err
        assert quilt("functions", command, "f", "--json").json["functions"][0]["name"] == "f"
        assert gateway.requests.count(("POST", f"/api/functions/fn_0/{command}")) == 2


@pytest.mark.usefixtures("deployed")
def test_scaling_leaves_what_is_not_given(quilt: Any, gateway: FakeGateway) -> None:
    refused = quilt("functions", "scale", "f")
    assert refused.code == 2 and "--min" in refused.err
    before = the_function(gateway)
    assert quilt("functions", "scale", "f", "--max", "50").code == 0
    assert json.loads(gateway.bodies[-1]) == {"min_instances": before["min_instances"], "max_instances": 50}
    assert quilt("functions", "scale", "f", "--min", "0", "--max", "7", "--json").json["total_count"] == 1
    assert json.loads(gateway.bodies[-1]) == {"min_instances": 0, "max_instances": 7}


@pytest.mark.usefixtures("deployed")
def test_a_template_is_dropped_with_or_without_its_snapshot(quilt: Any, gateway: FakeGateway) -> None:
    assert quilt("functions", "drop-template", "f").code == 0
    assert quilt("functions", "drop-template", "f", "--snapshot", "--json").json == {"dropped": True}
    assert gateway.queries == [{}, {"snapshot": "true"}]


@pytest.mark.usefixtures("deployed")
def test_invocations(quilt: Any) -> None:
    listed = quilt("functions", "invocations", "f").out
    assert "inv_1" in listed and "fork" in listed and "1,234.5 ms" in listed and "d ago" in listed
    none = quilt("functions", "invocations", "f", "--status", "failed")
    assert (none.code, none.out) == (0, "") and "no such invocations" in none.err
    assert quilt("functions", "invocations", "f", "--json").json["invocations"][0]["status"] == "success"
    assert "ms to start" in quilt("functions", "invocations", "f", "inv_1").out
    assert quilt("functions", "invocations", "f", "inv_1", "--json").json["invocation_id"] == "inv_1"


def test_the_guide(quilt: Any, gateway: FakeGateway) -> None:
    listed = quilt("guide").out
    assert "volumes" in listed and "Folders that stay." in listed and "platform" not in listed
    assert quilt("guide", "--json").json == {"concerns": [{"name": "volumes", "says": "Folders that stay."}]}
    assert quilt("guide", "volumes").out == "# volumes\n"
    assert quilt("guide", "volumes", "--json").json["about"] == "help"
    assert quilt("guide", "volumes", "--examples", "--json").json["about"] == "examples"
    assert "can work now" in quilt("guide", "volumes", "--health").out
    gateway.unhealthy = "the disk is full"
    ill = quilt("guide", "volumes", "--health")
    assert ill.code == 1 and "can't work now: the disk is full" in ill.out
    assert quilt("guide", "volumes", "--health", "--json").code == 1
    assert quilt("guide", "--health").code == 2


def test_a_guide_that_there_is_not(quilt: Any, gateway: FakeGateway) -> None:
    gateway.fail_next(RouteNotFound("there is no route /api/volume/help"))
    refused = quilt("guide", "volume")
    assert refused.code == 2 and "one of volumes" in refused.err


@pytest.mark.usefixtures("deployed")
def test_delete_asks_at_a_terminal(quilt: Any, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    assert quilt("functions", "delete", "f").code == 130 and gateway.functions
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert quilt("functions", "delete", "f").code == 0 and not gateway.functions


@pytest.mark.usefixtures("deployed")
def test_pool_and_keys(quilt: Any) -> None:
    pools = quilt("pool")
    assert pools.out.splitlines()[-1].split() == ["f", "0", "1", "0", "0", "0", "1", "0"]
    assert quilt("pool", "--json").json["pools"][0]["ready_count"] == 1
    assert "ins_1" in quilt("pool", "f").out and quilt("pool", "f", "--json").json["total_count"] == 1
    assert "key_1" in quilt("keys", "list").out
    made = quilt("keys", "create", "--name", "ci")
    assert made.out == KEY + "\n" and "cannot be shown again" in made.err
    assert quilt("keys", "create", "--json").json["key"] == KEY
    assert quilt("keys", "delete", "key_1").code == 0 and quilt("keys", "delete", "key_9").code == 3


@pytest.mark.usefixtures("deployed")
def test_logs(quilt: Any, gateway: FakeGateway) -> None:
    gateway.log_lines = [
        {
            "t": "2026-01-01T10:00:00.500Z",
            "stream": "stdout",
            "invocation_id": "inv_1",
            "instance_id": "i",
            "text": "one\n",
        },
        {"t": 1767261600.25, "stream": "stderr", "invocation_id": "inv_2", "instance_id": "i", "text": "two"},
    ]
    lines = quilt("logs", "f").out.splitlines()
    assert [line.split()[1:] for line in lines] == [["stdout", "one"], ["stderr", "two"]]
    assert ".500 " in lines[0] and ".250 " in lines[1]
    only = quilt("logs", "f", "--invocation", "inv_2", "--json").out.splitlines()
    assert [json.loads(line)["text"] for line in only] == ["two"]
    absent = quilt("logs", "f", "--invocation", "inv_x")
    assert (absent.code, absent.out) == (3, "") and "inv_x" in absent.err
    gateway.log_lines = []
    silent = quilt("logs", "f", "--invocation", "inv_1")  # it is there, and wrote nothing
    assert (silent.code, silent.out) == (0, "")


@pytest.mark.parametrize(
    "words", [["quilt_fn.cli.main", "keys", "list", "--json"], ["runtime.doctor", "--json"], ["runtime.doctor"]]
)
def test_a_reader_that_leaves_is_no_traceback(gateway: FakeGateway, words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", *words],
        stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    os.close(write)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_command_over_the_keys_rate_waits_and_says_so(quilt: Any, gateway: FakeGateway) -> None:
    gateway.fail_next(RateLimited("this API key may make 1 requests a second", retry_after=1.0))
    found = quilt("keys", "list", "--json")
    assert found.code == 0 and found.json["keys"]
    assert found.err == "this API key may make 1 requests a second: going on in 1 s\n"
    gateway.fail_next(RateLimited("slowly", retry_after=600.0))
    refused = quilt("keys", "list")
    assert (refused.code, refused.out) == (6, "")
