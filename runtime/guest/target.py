"""Finds what a handler's name means: `module:function`, `package.mod:obj.attr`, `module.function`, `pickle:function`.

Each way in which a name can be wrong is said with what there is instead. Not here: calling it (`handler`).
"""

from __future__ import annotations

import importlib
import os
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PICKLE = "pickle"


class HandlerNotFound(Exception):
    """A handler's name leads nowhere; the message says at which step, and what there is."""


def resolve(target: str, base: str) -> Any:
    """The callable that `target` names, without the SDK's wrapper. `base` is the bundle's folder, and on sys.path.

    Raises HandlerNotFound, and whatever importing the user's module raises.
    """
    module_name, _, path = target.partition(":")
    if not path:
        module_name, _, path = target.rpartition(".")
    if not module_name or not path:
        raise HandlerNotFound(f"{target!r} is not a handler's name: write module:function")
    if module_name == PICKLE:
        found = _unpickle(path, base)
    else:
        found = _attribute(_module(module_name.replace("/", "."), base), path)
    if hasattr(found, "__quilt_function__"):
        import cloudpickle  # type: ignore[import-untyped]  # noqa: F401 - its calls come and go as pickles

        found = found.__quilt_function__
    if not callable(found):
        raise HandlerNotFound(f"{target} is a {type(found).__name__}, which cannot be called")
    return found


def _module(name: str, base: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only the module asked for, or a package above it, is a wrong name; anything else is the user's import failing.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        has = _instead(name, _modules(base), "the bundle has")
        raise HandlerNotFound(f"there is no module {name!r}; {has}") from None


def _modules(base: str) -> list[str]:
    try:
        entries = sorted(os.listdir(base))
    except OSError:
        return []
    return [
        entry.removesuffix(".py")
        for entry in entries
        if (entry.endswith(".py") or os.path.isdir(os.path.join(base, entry))) and not entry.startswith((".", "__"))
    ]


def _attribute(module: types.ModuleType, path: str) -> Any:
    found: Any = module
    above = f"the module {module.__name__!r}"
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            names = [n for n in _defined(found) if callable(getattr(found, n, None))]
            raise HandlerNotFound(f"{above} has no {name!r}; {_instead(name, names, 'it has')}") from None
        above = f"{name!r}"
    return found


def _defined(thing: Any) -> list[str]:
    """The names that `thing` itself defines, those that it imported left out where that can be told."""
    names = [name for name in dir(thing) if not name.startswith("_")]
    if not isinstance(thing, types.ModuleType):
        return names
    home = thing.__name__
    return [name for name in names if getattr(getattr(thing, name), "__module__", home) == home]


def _instead(name: str, names: list[str], has: str) -> str:
    if not names:
        return f"{has} none"
    import difflib

    near = difflib.get_close_matches(name, names, 1)
    guess = f" (is {near[0]!r} meant?)" if near else ""
    return f"{has}: {', '.join(names[:20])}{', …' if len(names) > 20 else ''}{guess}"


def _unpickle(path: str, base: str) -> Any:
    import pickle

    try:
        with open(os.path.join(base, f"{path}.pkl"), "rb") as opened:
            return pickle.load(opened)
    except FileNotFoundError:
        raise HandlerNotFound(f"the bundle has no {path}.pkl") from None
    except ModuleNotFoundError as error:
        raise HandlerNotFound(
            f"{path}.pkl needs the module {error.name!r}, which is not there: put it into requirements"
        ) from error
