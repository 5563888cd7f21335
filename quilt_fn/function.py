"""A function of an app: called here as it is, or with `.remote` and `.map` on the platform.

Not here: what the options mean (`options`), packing (`sources`), deploying (`deploying`). Importing this needs the
standard library alone: the object is made inside the sandbox too, where the guest takes the user's own function from
its `__quilt_function__`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import sys
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from quilt_fn import options as opts
from quilt_fn.errors import Conflict, FunctionNotFound, InvalidValue
from quilt_fn.remote import MINOR
from quilt_fn.twins import both, both_items

if TYPE_CHECKING:
    from quilt_fn.app import App
    from quilt_fn.client import Client, DeployStep
    from quilt_fn.deploying import Plan
    from quilt_fn.model.function import FunctionRecord

P = ParamSpec("P")
R = TypeVar("R")

MAP_CONCURRENCY = 10
"""Calls at once where max_instances is not given: the platform's default for that."""


class Remote(Generic[P, R]):
    """A function on the platform by its name, whatever code it has: `Function.from_name("thumbnail").remote(…)`."""

    def __init__(self, name: str, client: Callable[[], Client]) -> None:
        self.name = name
        self._client_of = client

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @both
    async def remote(self: Remote[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it on the platform, and wait for what it returns.

        Arguments and result travel by cloudpickle. What it raises is raised here, with the remote traceback as its
        cause. A function that yields has no single value: read its stream from its URL, or let it return a list.
        """
        await self._prepare()
        return await self._call(args, kwargs)

    @both_items
    async def map(
        self,
        items: Iterable[Any],
        *,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        max_concurrency: int | None = None,
    ) -> AsyncGenerator[R, None]:
        """Call it for each of `items`, at most `max_concurrency` at once; the results in order, or as they come.

        The first exception ends it, unless `return_exceptions` puts exceptions in their places. Lazy: the first call
        begins when the first result is asked for. `items` may be endless.
        """
        results = self._spread(items, lambda item: (item,), order_outputs, return_exceptions, max_concurrency)
        async for result in results:
            yield result

    @both_items
    async def starmap(
        self,
        items: Iterable[Iterable[Any]],
        *,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        max_concurrency: int | None = None,
    ) -> AsyncGenerator[R, None]:
        """As `map`, with each item spread over the function's parameters."""
        results = self._spread(items, tuple, order_outputs, return_exceptions, max_concurrency)
        async for result in results:
            yield result

    async def _spread(
        self,
        items: Iterable[Any],
        arguments: Callable[[Any], tuple[Any, ...]],
        ordered: bool,
        return_exceptions: bool,
        limit: int | None,
    ) -> AsyncGenerator[R, None]:
        from quilt_fn.mapping import bounded

        limit = self._concurrency() if limit is None else limit
        if limit < 1:
            raise InvalidValue(f"max_concurrency must be at least 1, not {limit}")
        await self._prepare()
        results = bounded(
            items,
            lambda item: self._call(arguments(item), {}),
            limit=limit,
            ordered=ordered,
            return_exceptions=return_exceptions,
        )
        try:
            async for result in results:
                yield cast(R, result)
        finally:
            await results.aclose()

    async def _prepare(self) -> None:
        """Make sure that there is something to call."""
        refuse_inside_a_sandbox(self.name)

    async def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        return cast(R, await self._client_of().call.aio(self.name, args, kwargs, self._script()))

    def _script(self) -> str | None:
        return None

    def _concurrency(self) -> int:
        return MAP_CONCURRENCY


class Function(Remote[P, R]):
    """What `@app.function()` makes of a function. Calling it calls the function itself, here."""

    def __init__(self, app: App, function: Callable[P, R], options: opts.FunctionOptions) -> None:
        opts.check_names(options)
        if not callable(function) or isinstance(function, type):
            raise TypeError(f"@app.function is for functions, not for {function!r}")
        super().__init__(options.get("name") or default_name(app.name, function.__name__), lambda: app.client)
        self.app = app
        self.options = options
        self.__quilt_function__ = function
        self._deployed: FunctionRecord | None = None
        self._lock: asyncio.Lock | None = None
        functools.update_wrapper(self, function)

    @staticmethod
    def from_name(name: str, client: Client | None = None) -> Remote[..., Any]:
        """A function that is deployed already, by its name; nothing is packed or deployed."""
        from quilt_fn.client import Client

        made = functools.cache(lambda: client or Client())
        return Remote(name, made)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.__quilt_function__(*args, **kwargs)

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here, in this process."""
        return self.__quilt_function__(*args, **kwargs)

    @property
    def origin(self) -> tuple[str, str]:
        """Module and qualified name of the user's function."""
        return self.__quilt_function__.__module__, self.__quilt_function__.__qualname__

    @property
    def url(self) -> str:
        """The function's URL on the app's platform, whether it is deployed or not."""
        return f"{self.app.client.url}/fn/{self.name}"

    def plan(self) -> Plan:
        """What would be deployed now; packs the files. Raises BundleInvalid, InvalidValue, PayloadTooLarge."""
        from quilt_fn import bundle, settings, sources
        from quilt_fn.deploying import Plan

        function = self.__quilt_function__
        home = sources.home_of(function)
        fields = opts.api_fields(self.options, home.file.parent if home else Path.cwd())
        for moment in ("before_snapshot", "after_restore"):
            given = opts.hooks(self.options.get(moment))  # type: ignore[arg-type]
            if given:
                fields.setdefault("hooks", {})[moment] = [sources.reference(hook, home) for hook in given]
        found = sources.of_function(function, self.options.get("include", ()))
        if found.pickled:
            fields["python"] = MINOR
        packed = bundle.pack(found.entries, settings.read().max_body_mb << 20)
        return Plan(packed, {**fields, "name": self.name, "handler": found.handler})

    @both
    async def deploy(self, on_step: Callable[[DeployStep], None] | None = None) -> FunctionRecord:
        """Deploy it as it stands here, also where the platform has just that; its record."""
        from quilt_fn import deploying
        from quilt_fn.model.function import FunctionRecord

        refuse_inside_a_sandbox(self.name)
        plan = await asyncio.to_thread(self.plan)
        async for step in deploying.deploy(self.app.client, plan):
            if isinstance(step, FunctionRecord):
                self._deployed = step
                return step
            if on_step is not None:
                on_step(step)
        raise FunctionNotFound(f"{self.name} was not deployed")

    async def _prepare(self) -> None:
        """The first call of a process deploys, where the platform does not have just this code and these options."""
        await super()._prepare()
        function = self.__quilt_function__
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidValue(
                f"{self.name} yields, and a call by .remote() or .map() carries one value",
                hint=f"let it return a list, or read its stream from {self.url}",
            )
        if self._deployed is not None:
            return
        if self._lock is None:
            self._lock = asyncio.Lock()
        async with self._lock:
            if self._deployed is None:
                from quilt_fn import deploying

                plan = await asyncio.to_thread(self.plan)
                self._deployed = await deploying.is_deployed(self.app.client, plan)
                if self._deployed is None:
                    await self.deploy.aio(self.app.on_step(self.name))

    def _script(self) -> str | None:
        """The module that `__main__` is for the function's code, where it goes as a file of that."""
        if self.__quilt_function__.__module__ != "__main__":
            return None
        from quilt_fn import sources

        home = sources.home_of(self.__quilt_function__)
        return home.module if home else None

    def _concurrency(self) -> int:
        return self.options.get("max_instances", MAP_CONCURRENCY)

    def __reduce__(self) -> str | tuple[Any, ...]:
        # On the other side there is no platform to speak to: the user's function is all that can be used of it.
        module = sys.modules.get(self.__module__)
        name = self.origin[1]
        if self.__module__ != "__main__" and getattr(module, name, None) is self:
            return name
        return _same, (self.__quilt_function__,)


def _same(value: Any) -> Any:
    return value


def default_name(app_name: str | None, function_name: str) -> str:
    """The function's name in URLs: lower case, `-` for what is neither letter nor digit."""
    text = f"{app_name}-{function_name}" if app_name else function_name
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def refuse_inside_a_sandbox(name: str) -> None:
    """Raise Conflict inside an instance: a file that calls `.remote()` when imported would otherwise call itself."""
    if "_quilt_guest" in sys.modules:
        raise Conflict(
            f"{name}.remote() was called inside a function's sandbox",
            hint='keep calls at the end of the file under `if __name__ == "__main__":`',
        )
