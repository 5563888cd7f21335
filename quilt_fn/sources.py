"""From a function to the files it needs and the name it has among them: `(bundle entries, "module:function")`.

Not here: the archive (`bundle`). A function of a file brings that file, the modules beside it that it imports (found by
reading the import statements), and whole packages; one of a REPL, a notebook or another function is pickled.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quilt_fn import bundle, ignore
from quilt_fn.errors import BundleInvalid, InvalidValue

PICKLED_FILE = "function.pkl"
PICKLED_HANDLER = "pickle:function"


@dataclass(frozen=True, slots=True)
class Sources:
    """`pickled` says that the code itself is a pickle, so that the Python that opens it must be this one's minor."""

    entries: dict[str, bundle.Entry] = field(repr=False)
    handler: str
    pickled: bool = False


@dataclass(frozen=True, slots=True)
class Home:
    """Where a module's file is: `root` is what Python has on its path, `module` the name from there."""

    root: Path
    module: str
    file: Path


def of_function(function: Callable[..., Any], include: Sequence[str | Path] = ()) -> Sources:
    """What `function` needs. `include` names more files and folders, relative to the root of its module.

    Raises BundleInvalid where a file can't be packed or the function can't be pickled.
    """
    home = home_of(function)
    entries = _with_includes(of_module(home), home, include) if home else _without_home(include)
    if home is not None and _is_global(function):
        return Sources(entries, f"{home.module}:{function.__qualname__}")
    from quilt_fn import pickling

    entries[PICKLED_FILE] = bundle.Entry(pickling.dumps_code(function))
    return Sources(entries, PICKLED_HANDLER, pickled=True)


def home_of(thing: Callable[..., Any]) -> Home | None:
    """The file that defines `thing`; None for a REPL, a notebook, `python -c`, or a module without a source file."""
    module = sys.modules.get(thing.__module__)
    file = getattr(module, "__file__", None)
    if module is None or file is None or not file.endswith(".py") or not Path(file).is_file():
        return None
    path = Path(file).resolve()
    name = module.__name__
    if name == "__main__":
        # `python -m package.module` says its real name in __spec__; a script is named by its file.
        spec = getattr(module, "__spec__", None)
        name = spec.name if spec is not None and spec.name else path.stem
    parts = name.split(".")
    if path.name == "__init__.py":
        parts.append("__init__")
    if not all(part.isidentifier() for part in parts):
        raise BundleInvalid(f"{path.name} cannot be imported as a module: its name must be a Python identifier")
    root = path.parents[len(parts) - 1]
    # A module that was loaded under a name of somebody's own choice is not found by it in a bundle.
    return Home(root, name, path) if root.joinpath(*parts).with_suffix(".py") == path else None


def home_of_file(path: Path) -> Home:
    """As `home_of`, for a file by its path: packages that it is in are found by their __init__.py."""
    file = path.resolve()
    parts = [file.stem]
    root = file.parent
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    if not all(part.isidentifier() for part in parts):
        raise BundleInvalid(f"{path.name} cannot be imported as a module: its name must be a Python identifier")
    return Home(root, ".".join(parts), file)


def reference(hook: Callable[..., Any] | str, home: Home | None) -> str:
    """`module:qualname` of a hook. Raises InvalidValue where it is in no file of the bundle."""
    if isinstance(hook, str):
        return hook
    own = home_of(hook)
    if home is None or own is None or own.root != home.root or not _is_global(hook):
        raise InvalidValue(
            f"the hook {hook.__qualname__} must stand at the top of a file beside the function's own",
            hint="a hook is found by its module and name; pickled it would not share the function's globals",
        )
    return f"{own.module}:{hook.__qualname__}"


def of_module(home: Home) -> dict[str, bundle.Entry]:
    """The module's file or whole package, and what of the folder beside it is imported, directly or not."""
    entries: dict[str, bundle.Entry] = {}
    todo = [home.module.split(".")[0]]
    seen = {"quilt_fn"}  # it is in every sandbox
    patterns = ignore.read(home.root)
    while todo:
        top = todo.pop()
        if top in seen:
            continue
        seen.add(top)
        package, file = home.root / top, home.root / f"{top}.py"
        if package.is_dir() and (package / "__init__.py").is_file():
            found = bundle.read(package, below=f"{top}/", patterns=patterns)
        elif file.is_file():
            found = bundle.read(file)
        elif package.is_dir() and _holds_python(package):
            found = bundle.read(package, below=f"{top}/", patterns=patterns)
        else:
            continue
        entries.update(found)
        for name, entry in found.items():
            if name.endswith(".py"):
                todo.extend(_imports(name, entry.data))
    return entries


def _imports(name: str, source: bytes) -> Iterator[str]:
    """Top-level names that the file imports."""
    try:
        tree = ast.parse(source, filename=name)
    except (SyntaxError, ValueError):
        return  # a file that nobody imports may be a template or of another Python; one that is imported fails there
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def _holds_python(folder: Path) -> bool:
    return next(folder.glob("*.py"), None) is not None and not (folder / "pyvenv.cfg").exists()


def _with_includes(
    entries: dict[str, bundle.Entry], home: Home, include: Sequence[str | Path]
) -> dict[str, bundle.Entry]:
    for item in include:
        path = (home.root / item).resolve()
        if not path.is_relative_to(home.root):
            raise BundleInvalid(f"include: {item} is outside of {home.root}")
        relative = path.relative_to(home.root).as_posix()
        below = ("" if relative == "." else f"{relative}/") if path.is_dir() else relative[: -len(path.name)]
        entries.update(bundle.read(path, below=below))
    return entries


def _without_home(include: Sequence[str | Path]) -> dict[str, bundle.Entry]:
    if include:
        raise InvalidValue("include needs a function that is defined in a file: its paths are relative to that")
    return {}


def _is_global(function: Callable[..., Any]) -> bool:
    """Whether the function is found by its name in its module, so that importing that gives it."""
    if "<" in function.__qualname__:
        return False
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is not None and getattr(found, "__quilt_function__", found) is function
