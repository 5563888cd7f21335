"""Arguments, results and code as bytes: cloudpickle, with one name for what a script's `__main__` and its module share.

Not here: where the bytes travel (`remote`). A script `app.py` runs here as `__main__` and in the sandbox as `app`; its
classes must be the same ones on both sides, so they go as references to `app`, and come back as those of `__main__`.
"""

from __future__ import annotations

import importlib
import io
import operator
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

from quilt_fn.errors import BundleInvalid, InvalidValue

PROTOCOL = 5
"""Of Python 3.8 and later."""


class _ModuleByName:
    """Pickles as `import_module(name)`, with the standard library alone on the other side."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return importlib.import_module, (self._name,)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO, script: str | None) -> None:
        super().__init__(file, protocol=PROTOCOL)
        self._script = script

    def reducer_override(self, obj: Any) -> Any:
        if self._script and isinstance(obj, (type, types.FunctionType)) and _is_of_main(obj):
            return operator.attrgetter(obj.__qualname__), (_ModuleByName(self._script),)
        return super().reducer_override(obj)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, script: str | None) -> None:
        super().__init__(file)
        self._script = script

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class("__main__" if module == self._script else module, name)


def dumps(value: Any, script: str | None = None) -> bytes:
    """`value` pickled. `script`: the module name by which the other side knows our `__main__`.

    Raises InvalidValue where it can't be pickled.
    """
    file = io.BytesIO()
    try:
        _Pickler(file, script).dump(value)
    except Exception as error:
        raise InvalidValue(f"an argument cannot be pickled: {error}") from error
    return file.getvalue()


def loads(data: bytes, script: str | None = None) -> Any:
    """What `dumps` made, or cloudpickle on the other side. Runs code: only for bytes from a function of one's own."""
    return _Unpickler(io.BytesIO(data), script).load()


def dumps_code(function: Callable[..., Any]) -> bytes:
    """A function as code, by value. Raises BundleInvalid where something that it refers to can't be pickled."""
    try:
        return bytes(cloudpickle.dumps(function, protocol=PROTOCOL))
    except Exception as error:
        raise BundleInvalid(
            f"{function.__qualname__} is not at the top of a file, so it is pickled, and that failed: {error}",
            hint="move it to the top of a file, or make what it needs inside it",
        ) from error


def _is_of_main(obj: Any) -> bool:
    if getattr(obj, "__module__", None) != "__main__":
        return False
    found: Any = sys.modules["__main__"]
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    return getattr(found, "__quilt_function__", found) is obj
