"""What a user of functions imports: `App`, `Client`, `Response` and the errors.

Not here: anything of the platform's own rooms. Importing this package costs nothing but the standard library, because
user files import it inside the sandbox too; each name is loaded when it is first used (PEP 562).

How the files work together: `app` and `function` are what users write; `sources`, `bundle` and `ignore` find and pack
their code; `deploying` brings it to the platform; `client` speaks HTTP through `transport`; `remote` and `pickling`
carry calls; `twins` makes the sync and `.aio` side of each method; `cli` is the `quilt` command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quilt_fn import errors
    from quilt_fn.app import App
    from quilt_fn.client import Client
    from quilt_fn.context import Context
    from quilt_fn.function import Function
    from quilt_fn.remote import RemoteTraceback
    from quilt_fn.response import Response

__version__ = "0.1.0"
__all__ = ["App", "Client", "Context", "Function", "RemoteTraceback", "Response", "__version__", "errors"]

_HOME = {
    "App": "quilt_fn.app",
    "Client": "quilt_fn.client",
    "Context": "quilt_fn.context",
    "Function": "quilt_fn.function",
    "RemoteTraceback": "quilt_fn.remote",
    "Response": "quilt_fn.response",
}


def __getattr__(name: str) -> object:
    import importlib

    if name == "errors":
        return importlib.import_module("quilt_fn.errors")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
