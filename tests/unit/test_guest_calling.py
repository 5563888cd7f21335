"""How a handler wants to be called is read from its code as `inspect` would read it from its signature."""

from __future__ import annotations

import functools
import inspect
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.guest import calling

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("asyncio", "dataclasses", "inspect", "logging", "pickle", "random", "socket", "threading", "typing")
"""Each adds pages that every restore reads, or work that every fork does."""


class Thing:
    def __call__(self, event: Any) -> Any: ...
    def method(self, event: Any, context: Any) -> Any: ...
    @staticmethod
    def static(event: Any) -> Any: ...
    @classmethod
    def of_class(cls, event: Any, other: Any = 1) -> Any: ...
    def of_anything(*args: Any) -> Any: ...
    async def soon(self, event: Any) -> Any: ...


def nothing() -> None: ...
def event(event: Any) -> None: ...
def both(event: Any, context: Any) -> None: ...
def default(event: Any, limit: int = 3) -> None: ...
def default_context(event: Any, ctx: Any = None) -> None: ...
def keyword(event: Any, *, context: Any = None) -> None: ...
def anything(*args: Any) -> None: ...
def named(**fields: Any) -> None: ...
def positional_only(event: Any, _context: Any, /) -> None: ...
def three(event: Any, context: Any, more: Any) -> None: ...
def asgi(scope: Any, receive: Any, send: Any) -> None: ...
def wsgi(environ: Any, start_response: Any) -> None: ...
async def soon(event: Any) -> None: ...
async def stream(event: Any) -> Any:
    yield event


@functools.wraps(both)
def wrapper(*args: Any) -> None: ...


def claims(*args: Any) -> None: ...


claims.__signature__ = inspect.signature(event)  # type: ignore[attr-defined]

EXPECTED: list[tuple[Callable[..., Any], str, bool]] = [
    (nothing, "nothing", False), (event, "event", False), (both, "context", False), (default, "event", False),
    (default_context, "context", False), (keyword, "event", False), (anything, "context", False),
    (named, "nothing", False), (positional_only, "context", False), (three, "context", False), (asgi, "asgi", False),
    (wsgi, "wsgi", False), (soon, "event", True), (stream, "event", True), (wrapper, "context", False),
    (claims, "event", False), (Thing(), "event", False), (Thing().method, "context", False),
    (Thing.static, "event", False), (Thing.of_class, "event", False), (Thing().of_anything, "context", False),
    (Thing().soon, "event", True), (functools.partial(both, 1), "event", False),
    (functools.partial(soon), "event", True),
    (lambda event: event, "event", False), (dict, "event", False), (len, "event", False),
]  # fmt: skip


@pytest.mark.parametrize(("function", "style", "loop"), EXPECTED, ids=lambda value: getattr(value, "__name__", None))
def test_the_style_of_a_callable(function: Callable[..., Any], style: str, loop: bool) -> None:
    assert (calling.style_of(function), calling.needs_loop(function)) == (style, loop)
    asynchronous = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    assert calling.needs_loop(function) == asynchronous


def test_what_can_be_awaited() -> None:
    class Promise:
        def __await__(self) -> Any:
            yield

    @types.coroutine
    def old() -> Any:
        yield

    coroutine = soon(1)
    for thing in (coroutine, Promise(), old(), (n for n in ()), stream(1), {}, None, 3):
        assert calling.isawaitable(thing) == inspect.isawaitable(thing), thing
    coroutine.close()


def test_a_template_holds_no_heavy_modules() -> None:
    code = (f"import sys; sys.path.insert(0, {str(ROOT / 'runtime')!r}); import guest.template, guest.handler, "
            f"guest.audit; print(*[m for m in {HEAVY!r} if m in sys.modules])")  # fmt: skip
    said = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == []
