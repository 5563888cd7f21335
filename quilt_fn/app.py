"""`App`: the functions of one program, and the platform that they go to.

Not here: a function itself (`function`). Importing this needs the standard library alone, because user files do it
inside the sandbox too.

    app = App("photos")

    @app.function(memory_mb=512, requirements=["pillow"])
    def thumbnail(data: bytes, width: int = 200) -> bytes: ...

    if __name__ == "__main__":
        small = thumbnail.remote(open("big.jpg", "rb").read())
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack, overload

from quilt_fn.errors import NameTaken
from quilt_fn.function import Function
from quilt_fn.options import FunctionOptions
from quilt_fn.twins import both

if TYPE_CHECKING:
    from quilt_fn.client import Client, DeployStep
    from quilt_fn.model.function import FunctionRecord

P = ParamSpec("P")
R = TypeVar("R")


class App:
    """Functions that are deployed together. With a `name`, theirs begin with it: apps don't overwrite each other."""

    def __init__(self, name: str | None = None, *, client: Client | None = None) -> None:
        self.name = name
        self.functions: dict[str, Function[..., Any]] = {}
        """By their names on the platform, in the order in which they were defined."""
        self._client = client

    def __repr__(self) -> str:
        return f"<App {self.name or ''} {list(self.functions)}>"

    @property
    def client(self) -> Client:
        """The platform; made from settings and credentials when it is first needed."""
        if self._client is None:
            from quilt_fn.client import Client

            self._client = Client()
        return self._client

    @client.setter
    def client(self, client: Client) -> None:
        self._client = client

    @overload
    def function(self, function: Callable[P, R], /) -> Function[P, R]: ...

    @overload
    def function(self, /, **options: Unpack[FunctionOptions]) -> Callable[[Callable[P, R]], Function[P, R]]: ...

    def function(self, function: Callable[..., Any] | None = None, /, **options: Unpack[FunctionOptions]) -> Any:
        """Make a function of the app: `@app.function(memory_mb=512, …)`; see FunctionOptions for all of them.

        Raises TypeError for an option that there is not, NameTaken where the app has another function of that name.
        """
        if function is not None:
            return self._add(function, options)
        return lambda function: self._add(function, options)

    def _add(self, function: Callable[P, R], options: FunctionOptions) -> Function[P, R]:
        made = Function(self, function, options)
        old = self.functions.get(made.name)
        # Running a notebook's cell again defines the same function again; that replaces it.
        if old is not None and old.origin != made.origin:
            raise NameTaken(f"this app has two functions named {made.name}: give one of them another with name=")
        self.functions[made.name] = made
        return made

    @both
    async def deploy(self, on_step: Callable[[str, DeployStep], None] | None = None) -> list[FunctionRecord]:
        """Deploy every function, one after the other; `on_step(name, step)` is told how it goes. Their records.

        Raises what the first one that fails raises; those before it stay deployed.
        """
        records = []
        for name, function in self.functions.items():
            told = (lambda step, name=name: on_step(name, step)) if on_step else self.on_step(name)
            records.append(await function.deploy.aio(told))
        return records

    def on_step(self, name: str) -> Callable[[DeployStep], None]:
        """Who is told how a deploy goes that a call began: people at a terminal, nobody else."""

        def tell(step: DeployStep) -> None:
            if step.done and sys.stderr is not None and sys.stderr.isatty():
                took = f" in {step.ms:,.0f} ms" if step.ms is not None else ""
                what = f": {step.text}" if step.stage == "changes" else took
                print(f"quilt: {name}: {step.stage}{what}", file=sys.stderr)

        return tell

    def __reduce__(self) -> tuple[Any, ...]:
        return App, (self.name,)
