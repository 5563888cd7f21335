"""Layers on a real platform: requirements resolved and installed from the package index, shared, and refused in words.

Not here: functions of packages at work (examples and demo).
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.integration.live import Answer, Live


def refused(live: Live, requirements: list[str]) -> Answer:
    name = live.create("def handler(event): return 1", requirements=requirements)
    got = live.ask("POST", f"/api/functions/{live.id(name)}/deploy")
    assert (got.status, got.code) == (422, "BUILD_FAILED"), got.body
    assert got.json()["details"]["stage"] == "layer"
    return got


def layers(live: Live) -> list[Path]:
    return sorted((live.root_dir / "store" / "layers").glob("*/*"))


SIX = "import six\ndef handler(event): return [six.__version__, six.__file__, bool(__import__('glob').glob("\
    "'/opt/quilt/layer/**/*.pyc', recursive=True))]"  # fmt: skip


def test_a_layer_is_built_once_and_shared(live: Live) -> None:
    before = layers(live)
    one = live.deploy(SIX, requirements=["six == 1.16.0"])
    version, file, compiled = live.call(one)
    assert (version, compiled) == ("1.16.0", True)
    assert file.startswith("/opt/quilt/layer/")
    made = set(layers(live)) - set(before)
    assert len(made) == 1
    stamp = made.copy().pop().stat()
    two = live.deploy(SIX + " ", requirements=["six == 1.16.0"])
    assert live.call(two)[0] == "1.16.0"
    assert set(layers(live)) - set(before) == made
    assert made.copy().pop().stat().st_ctime_ns == stamp.st_ctime_ns
    assert live.record(one)["layer_id"] == live.record(two)["layer_id"] == made.pop().name
    other = live.deploy(SIX, requirements=["six==1.17.0"])
    assert live.call(other)[0] == "1.17.0"
    assert live.record(other)["layer_id"] != live.record(one)["layer_id"]


def test_a_layer_is_read_only_to_whom_it_belongs(live: Live) -> None:
    """What one instance does to its packages, no other sees, and the store keeps as it was."""
    name = live.deploy(
        "import six\ndef handler(event):\n    found = open(six.__file__).read()[:9]\n"
        "    open(six.__file__, 'w').write('changed!!')\n    return found", requirements=["six == 1.16.0"],
    )  # fmt: skip
    assert live.call(name) != "changed!!"
    live.drop_instances(name)
    assert live.call(name) != "changed!!"
    store = next(live.root_dir.glob("store/layers/*/*/opt/quilt/layer/six.py"))
    assert not store.read_text().startswith("changed")
    assert (store.stat().st_uid, store.stat().st_mode & 0o022) == (0, 0)


def test_an_unknown_package_fails_in_the_resolvers_words(live: Live) -> None:
    got = refused(live, ["a-package-that-nobody-would-ever-name-so==1"])
    assert "a-package-that-nobody-would-ever-name-so" in got.json()["error"]
    assert "not found" in got.json()["error"] or "unsatisfiable" in got.json()["error"]
    assert got.json()["details"]["log"]


def test_versions_that_contradict_each_other(live: Live) -> None:
    got = refused(live, ["six==1.16.0", "six==1.17.0"])
    assert "six" in got.json()["error"] and "unsatisfiable" in got.json()["error"]


def test_a_package_without_a_wheel_is_refused_in_words(live: Live) -> None:
    """docopt has only a source archive; its set-up program would run at an installation."""
    got = refused(live, ["docopt==0.6.2"])
    assert "wheel" in got.json()["error"] and "docopt" in got.json()["error"]


def test_a_layer_that_fails_leaves_nothing(live: Live) -> None:
    before = layers(live)
    refused(live, ["docopt==0.6.2", "six==1.16.0"])
    assert layers(live) == before
    assert not list((live.folder / "state" / "cache").glob("*/.build-*"))


@pytest.mark.parametrize(
    "line",
    [
        "x @ file://{folder}/x-1-py3-none-any.whl", "{folder}/x-1-py3-none-any.whl", "file://{folder}/source",
        "./source", "../../../..{folder}/source", "x @ http://127.0.0.1:{port}/x-1-py3-none-any.whl",
        "http://127.0.0.1:{port}/x-1-py3-none-any.whl", "git+https://example.com/x", "x @ https://example.com/${{HOME}}.whl",
        "${{HOME}}/x", "~/x", "x --index-url=http://127.0.0.1:{port}/", "x --find-links={folder}", "x \\",
    ],
)  # fmt: skip
def test_a_requirement_names_a_package_and_nothing_else(live: Live, line: str) -> None:
    """No files of this machine, no services of its network, none of our environment."""
    folder = live.folder / "wheels"
    (folder / "source").mkdir(parents=True, exist_ok=True)
    (folder / "source" / "setup.py").write_text(f"open('{folder}/ran', 'w')")
    with zipfile.ZipFile(folder / "x-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("x.py", "")
        wheel.writestr("x-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: x\nVersion: 1\n")
        wheel.writestr("x-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("x-1.dist-info/RECORD", "")
    folder.chmod(0o777)
    spec = {"name": "t-refused", "handler": "main:handler", "source": "def handler(event): return 1"}
    wrong = {"requirements": ["six", line.format(folder=folder, port=live.port)]}
    got = live.ask("POST", "/api/functions", spec | wrong)
    assert (got.status, got.json()["details"]["fields"][0]["field"]) == (422, "requirements.1"), got.body
    assert "a package of the index" in got.json()["error"]
    assert not (folder / "ran").exists()
