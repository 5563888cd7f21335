"""Handler names: what they lead to, and what is said where they lead nowhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest

from runtime.guest.handler import HandlerNotFound, load, resolve

SOURCE = """
import os
from json import dumps
LIMIT = 3
class Box:
    def open(self): return "opened"
box = Box()
def handler(event): return event
class Wrapped:
    __quilt_function__ = staticmethod(lambda event: "plain")
wrapped = Wrapped()
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "guest_main.py").write_text(SOURCE)
    (tmp_path / "guest_pkg").mkdir()
    (tmp_path / "guest_pkg" / "__init__.py").write_text("")
    (tmp_path / "guest_pkg" / "deep.py").write_text(SOURCE)
    (tmp_path / "guest_broken.py").write_text("import no_such_thing")
    (tmp_path / "guest_raising.py").write_text("raise ValueError('at import')")
    (tmp_path / "function.pkl").write_bytes(cloudpickle.dumps(lambda event: "pickled"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield str(tmp_path)
    for name in [name for name in sys.modules if name.startswith("guest_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        ("guest_main:handler", 1),
        ("guest_main.handler", 1),
        ("guest_pkg.deep:handler", 1),
        ("guest_pkg/deep.handler", 1),
        ("pickle:function", "pickled"),
        ("guest_main:wrapped", "plain"),
    ],
)
def test_a_name_leads_to_its_function(base: str, target: str, answer: object) -> None:
    assert load(target, base).function(1) == answer


def test_a_name_may_go_through_objects(base: str) -> None:
    assert resolve("guest_main:box.open", base)() == "opened"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("guest_mian:handler", "is 'guest_main' meant?"),
        ("guest_pkg.depe:handler", "there is no module 'guest_pkg.depe'; the bundle has: "),
        ("guest_main:hadler", "has no 'hadler'; it has: Box, Wrapped, handler (is 'handler' meant?)"),
        ("guest_main:box.opne", "'box' has no 'opne'; it has: open (is 'open' meant?)"),
        ("guest_main:LIMIT", "is a int, which cannot be called"),
        ("handler", "write module:function"),
        ("guest_main:", "write module:function"),
        (":handler", "write module:function"),
        ("pickle:other", "has no other.pkl"),
    ],
)
def test_a_wrong_name_is_answered_with_what_there_is(base: str, target: str, said: str) -> None:
    with pytest.raises(HandlerNotFound) as caught:
        load(target, base)
    assert said in str(caught.value)


def test_what_the_users_import_raises_is_raised(base: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
        load("guest_broken:handler", base)
    with pytest.raises(ValueError, match="at import"):
        load("guest_raising:handler", base)


def test_a_pickle_that_needs_a_module_says_which(base: str) -> None:
    Path(base, "needy.pkl").write_bytes(b"cguest_absent\nfunction\n.")
    with pytest.raises(HandlerNotFound, match="guest_absent"):
        load("pickle:needy", base)
