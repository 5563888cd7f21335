"""How a handler wants to be called, read from its signature.

A plain function's is read from its code object: `inspect`, which knows every other kind of callable, brings a megabyte
of modules with it, and each page of a template is read at each restore. Not here: calling it (`handler`).
"""

from __future__ import annotations

from collections.abc import Awaitable
from types import CodeType, CoroutineType, FunctionType, GeneratorType, MethodType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_VAR_POSITIONAL, _COROUTINE, _ITERABLE_COROUTINE, _ASYNC_GENERATOR = 0x04, 0x80, 0x100, 0x200
"""Flags of a code object, as `inspect` names them."""


def needs_loop(function: Callable[..., Any]) -> bool:
    """Whether a call gives a coroutine or an asynchronous generator, as far as can be told."""
    code = _code(function)
    if code is not None:
        return bool(code.co_flags & (_COROUTINE | _ASYNC_GENERATOR))
    import inspect

    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def isawaitable(thing: object) -> bool:
    """inspect.isawaitable."""
    if isinstance(thing, GeneratorType):
        return bool(thing.gi_code.co_flags & _ITERABLE_COROUTINE)
    return isinstance(thing, (CoroutineType, Awaitable))


def style_of(function: Callable[..., Any]) -> str:
    """nothing (no parameter), asgi (scope, receive, send), wsgi (environ, start_response), context (a second positional
    parameter without a default, or named context or ctx; or *args), else event.
    """
    names, required, more = _positional(function)
    if required == 3 and names[0].strip("_") == "scope":
        return "asgi"
    if len(names) >= 2 and names[1] == "start_response":
        return "wsgi"
    if more:
        return "context"
    if len(names) >= 2:
        return "context" if required >= 2 or names[1].strip("_") in ("context", "ctx") else "event"
    return "event" if names else "nothing"


def _positional(function: Callable[..., Any]) -> tuple[list[str], int, bool]:
    """Names of the positional parameters, how many of them have no default, and whether there is a *args."""
    code = _code(function)
    if code is not None:
        bound = isinstance(function, MethodType)
        names = list(code.co_varnames[bound : code.co_argcount])
        defaults = len(function.__defaults__ or ())
        return names, max(0, len(names) - defaults), bool(code.co_flags & _VAR_POSITIONAL)
    import inspect

    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # builtins without a signature
        return ["event"], 1, False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [p for p in parameters if p.kind in kinds]
    required = sum(p.default is p.empty for p in positional)
    return [p.name for p in positional], required, any(p.kind is p.VAR_POSITIONAL for p in parameters)


def _code(function: Callable[..., Any]) -> CodeType | None:
    """The code of a plain function or method; None for what says of itself that it is like something else."""
    plain = function.__func__ if isinstance(function, MethodType) else function
    if type(plain) is not FunctionType or "__wrapped__" in plain.__dict__ or "__signature__" in plain.__dict__:
        return None
    return plain.__code__
