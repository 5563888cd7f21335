"""Options of @app.function, names, requirement files, secrets, and the credentials file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quilt_fn import App, credentials, options
from quilt_fn.errors import InvalidValue, NameTaken
from quilt_fn.model.function import FunctionCreate


def test_every_option_is_a_field_of_the_api() -> None:
    assert set(options.API_FIELDS.values()) <= set(FunctionCreate.model_fields)
    elsewhere = {"name", "requirements", "secrets", "public", "include", "before_snapshot", "after_restore"}
    assert set(options.FunctionOptions.__annotations__) == set(options.API_FIELDS) | elsewhere


def test_a_misspelt_option_names_the_right_one() -> None:
    app = App()
    with pytest.raises(TypeError, match="do you mean 'memory_mb'"):
        app.function(memory=5)(print)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="do you mean 'timeout_s'"):
        app.function(timeout_seconds=5)(print)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"no option 'xyz'$"):
        app.function(xyz=5)(print)  # type: ignore[call-arg]


def test_only_functions_can_be_decorated() -> None:
    with pytest.raises(TypeError, match="is for functions"):
        App().function(dict)


def test_names() -> None:
    def Make_Thumb_2(event: object) -> object:
        return event

    assert App().function(Make_Thumb_2).name == "make-thumb-2"
    assert App("Photo Lab").function(Make_Thumb_2).name == "photo-lab-make-thumb-2"
    assert App("x").function(name="exactly")(Make_Thumb_2).name == "exactly"


def test_two_functions_of_one_name_are_refused_the_same_again_replaces() -> None:
    app = App()
    app.function(name="f")(test_names)
    app.function(name="f")(test_names)
    with pytest.raises(NameTaken, match="two functions named f"):
        app.function(name="f")(test_only_functions_can_be_decorated)


def test_requirement_files(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("six\n")
    file = tmp_path / "requirements.txt"
    file.write_text("# all\npandas>=2  # the frame\n\n-r more.txt\nnumpy \\\n  ==2.0\npkg @ https://x/y.whl#sha256=1\n")
    assert options.read_requirements(file) == ["pandas>=2", "six", "numpy    ==2.0", "pkg @ https://x/y.whl#sha256=1"]
    assert options.requirements(["a", " ", "b "], tmp_path) == ["a", "b"]
    assert options.requirements("requirements.txt", tmp_path)[0] == "pandas>=2"
    for line in ("--index-url https://x", "-e .", "a==1 --hash=sha256:00"):
        file.write_text("ok\n" + line)
        with pytest.raises(InvalidValue, match=r"requirements\.txt, line 2"):
            options.read_requirements(file)
    with pytest.raises(InvalidValue, match="cannot be read"):
        options.requirements("absent.txt", tmp_path)


def test_secrets_by_value_or_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_A", "a")
    monkeypatch.delenv("TOKEN_B", raising=False)
    assert options.secrets({"X": "1"}) == {"X": "1"}
    assert options.secrets(["TOKEN_A"]) == options.secrets("TOKEN_A") == {"TOKEN_A": "a"}
    with pytest.raises(InvalidValue, match="TOKEN_B"):
        options.secrets(["TOKEN_A", "TOKEN_B"])


def test_credentials_by_platform_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "config" / "credentials.json"
    assert credentials.lookup("http://h:1", path) is None
    credentials.store("http://h:1/", "k1", path)
    credentials.store("http://h:2", "k2", path)
    assert credentials.lookup("http://h:1", path) == "k1" and credentials.lookup("http://h:2/", path) == "k2"
    assert json.loads(path.read_text()) == {"http://h:1": {"api_key": "k1"}, "http://h:2": {"api_key": "k2"}}
    assert path.stat().st_mode & 0o777 == 0o600 and [p.name for p in path.parent.iterdir()] == ["credentials.json"]
    credentials.forget("http://h:1", path)
    assert credentials.lookup("http://h:1", path) is None
    path.write_text("[]")
    with pytest.raises(InvalidValue, match="not a JSON object"):
        credentials.lookup("x", path)
    path.write_text("{")
    with pytest.raises(InvalidValue, match="cannot be read"):
        credentials.store("x", "y", path)


def test_where_credentials_are() -> None:
    assert credentials.file_path({"XDG_CONFIG_HOME": "/c"}) == Path("/c/quilt/credentials.json")
    assert credentials.file_path({}) == Path("~/.config/quilt/credentials.json").expanduser()
