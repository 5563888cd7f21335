"""From `PATH` or `PATH::name` of a user's file to the functions of the App in it.

Not here: deploying them. Loading a file runs it, as `python -c "import file"` would.
"""

from __future__ import annotations

import ast
import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from quilt_fn import sources
from quilt_fn.app import App
from quilt_fn.errors import BuildFailed, Conflict, FunctionNotFound, InvalidValue
from quilt_fn.function import Function


def looks_like_app(path: Path) -> bool:
    """Whether the file makes an App of quilt_fn's, told from its text: a plain handler is not run to find out."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        raise InvalidValue(f"{path} is no Python file: {error}") from error
    from_package = any(
        isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "quilt_fn"
        for node in ast.walk(tree)
    )
    whole = any(
        isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "quilt_fn" for alias in node.names)
        for node in ast.walk(tree)
    )
    makes = any(
        isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Name) and node.func.id == "App")
            or (isinstance(node.func, ast.Attribute) and node.func.attr == "App")
        )
        for node in ast.walk(tree)
    )
    return (from_package or whole) and makes


def functions_of(path: Path, name: str | None) -> list[Function[..., Any]]:
    """The functions of every App in the file, or the one that is called `name` (there, or on the platform).

    Raises BuildFailed with the traceback where the file can't be loaded, FunctionNotFound where nothing is in it.
    """
    module = load(path)
    apps = {id(value): value for value in vars(module).values() if isinstance(value, App)}
    found = [function for app in apps.values() for function in app.functions.values()]
    if name is not None:
        chosen = [function for function in found if name in (function.name, function.origin[1])]
        if not chosen:
            raise FunctionNotFound(f"{path} has no function {name!r}; it has {_names(found)}")
        return chosen
    if not found:
        raise FunctionNotFound(f"{path} has no function of an App", hint="decorate one with @app.function()")
    return found


def load(path: Path) -> ModuleType:
    """Import the file under the name that it will have in its bundle."""
    home = sources.home_of_file(path)
    known = sys.modules.get(home.module)
    if known is not None:
        if getattr(known, "__file__", None) and Path(str(known.__file__)).resolve() == home.file:
            return known
        raise Conflict(f"{path.name} has the name of the module {home.module}, which is in use: rename the file")
    sys.path.insert(0, str(home.root))
    try:
        return importlib.import_module(home.module)
    except Exception as error:
        text = "".join(traceback.format_exception(type(error), error, _from_file(error, home.file)))
        raise BuildFailed(
            f"{path} cannot be imported here: {type(error).__name__}: {error}",
            details={"stage": "import", "traceback": text},
            hint="what it imports at its top must be installed here too; or import it inside the function",
        ) from error


def _from_file(error: BaseException, file: Path) -> Any:
    at = error.__traceback__
    while at is not None and at.tb_frame.f_code.co_filename != str(file):
        at = at.tb_next
    return at or error.__traceback__


def _names(functions: list[Function[..., Any]]) -> str:
    return ", ".join(function.name for function in functions) or "none"
