"""The handler of a function: loaded once, then serving one INVOKE frame after the other.

Whatever user code does becomes a frame: `serve` never raises for it. Not here: reading frames and living (`instance`),
what a returned value stands for (`response`), and whole web apps (`asgi`, `wsgi`).
"""

from __future__ import annotations

import json
import os
import traceback

from . import wire
from .calling import isawaitable, needs_loop, style_of
from .context import Context, StaticInfo, read_query, read_text
from .failure import NotSerialisable, fail, flush_output, format_traceback, refuse
from .response import Reply, encode_piece, interpret, piece_kind
from .target import HandlerNotFound, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol

    from .failure import Send

    class App(Protocol):
        """A web app served whole: what `asgi.AsgiApp` and `wsgi.WsgiApp` offer."""

        def serve(self, meta: dict[str, Any], body: bytes, send: Send, static: StaticInfo) -> None: ...


__all__ = ["Handler", "HandlerNotFound", "StaticInfo", "clean_traceback", "load", "resolve"]

clean_traceback = format_traceback
CHUNK_LIMIT = 1 << 20
"""A larger piece of a stream goes out as several, so that who passes it on needs no more memory than this."""


def load(target: str, base: str) -> Handler:
    """The handler that `target` names in the bundle at `base`, as `resolve` does; an ASGI app's lifespan is begun."""
    return Handler(resolve(target, base))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(parse_constant=_no_constant).decode


class Handler:
    """`function` with the way in which it wants to be called, decided once (`calling.style_of`)."""

    __slots__ = ("_app", "_arity", "function")

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._app: App | None = None
        self._arity = 1
        if needs_loop(function):
            from . import loop  # noqa: F401 - now, so that no instance has to import asyncio
        style = style_of(function)
        if style == "asgi":
            from .asgi import AsgiApp

            self._app = AsgiApp(function)
        elif style == "wsgi":
            from .wsgi import WsgiApp

            self._app = WsgiApp(function)
        else:
            self._arity = {"nothing": 0, "event": 1, "context": 2}[style]

    @property
    def wants_request(self) -> bool:
        """Whether INVOKE should bring the HTTP request: for those who get a context, and for apps."""
        return self._app is not None or self._arity == 2

    def serve(self, meta: dict[str, Any], body: bytes, send: Send, static: StaticInfo) -> None:
        """Run one invocation and send its RESULT (and CHUNKs and END) or FAIL. Raises only what `send` raises."""
        changes = meta.get("env")
        if not changes:
            self._serve(meta, body, send, static)
            return
        before = {name: os.environ.get(name) for name in changes}
        os.environ.update(changes)
        try:
            self._serve(meta, body, send, static)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def _serve(self, meta: dict[str, Any], body: bytes, send: Send, static: StaticInfo) -> None:
        kind = meta["kind"]
        if kind == "pickle":
            self._serve_pickle(body, send, static)
            return
        if self._app is not None:
            self._app.serve(meta, body, send, static)
            return
        try:
            event = _event(kind, body, meta)
        except (ValueError, LookupError, RecursionError) as error:
            said = "JSON" if kind == "json" else "text in its charset"
            refuse(send, "BAD_EVENT", f"the event is not {said}: {error}", type(error).__name__)
            return
        try:
            if self._arity == 1:
                result = self.function(event)
            elif self._arity == 2:
                result = self.function(event, Context(meta, body, static))
            else:
                result = self.function()
            if isawaitable(result):
                result = _await(result)
            reply = interpret(result)
        except BaseException as error:
            fail(send, error)
            return
        deliver(reply, send, static.result_limit)

    def _serve_pickle(self, body: bytes, send: Send, static: StaticInfo) -> None:
        """A call by the SDK: (args, kwargs) in, the result or the exception itself out."""
        if self._app is not None:
            refuse(send, "BAD_EVENT", "the handler is a web app: it cannot be called with arguments", "TypeError")
            return
        import pickle

        limit = static.result_limit
        try:
            args, kwargs = pickle.loads(body)
        except BaseException as error:
            fail(send, error, "BAD_EVENT")
            return
        try:
            result = self.function(*args, **kwargs)
            if isawaitable(result):
                result = _await(result)
        except BaseException as error:
            fail(send, error, pickled=True, limit=limit)
            return
        try:
            import cloudpickle  # type: ignore[import-untyped]

            data = cloudpickle.dumps(result, protocol=5)
        except BaseException as error:
            text = f"the result, a {type(result).__name__}, cannot be pickled: {error}"
            fail(send, NotSerialisable(text))
            return
        deliver(Reply("pickle", data), send, limit)


def _event(kind: str, body: bytes, meta: dict[str, Any]) -> Any:
    if kind == "json":
        return _decode(body.decode())
    if kind == "text":
        return read_text(meta.get("req") or {}, body)
    return read_query((meta.get("req") or {}).get("query"))[1]


def deliver(reply: Reply, send: Send, limit: int) -> None:
    """Send `reply`. Raises only what `send` raises."""
    if reply.stream is not None:
        _deliver_stream(reply, send)
        return
    if len(reply.body) > limit:
        refuse(send, "RESULT_TOO_LARGE", f"a result of {len(reply.body)} bytes; the limit is {limit}", "ResultTooLarge")
        return
    flush_output()
    if reply.status == 200 and not reply.headers:
        send(wire.RESULT, wire.PLAIN_RESULT[reply.kind], reply.body)
        return
    meta = {"status": reply.status, "headers": reply.headers, "kind": reply.kind, "stream": False}
    send(wire.RESULT, meta, reply.body)


def _deliver_stream(reply: Reply, send: Send) -> None:
    """RESULT goes out with the first piece, so that what fails before it is still an ordinary failure."""
    source: Any = reply.stream
    pieces = _from_async(source) if hasattr(source, "__anext__") else source
    begun = False
    try:
        while True:
            try:
                piece = next(pieces)
                data = encode_piece(piece)
            except StopIteration:
                break
            except BaseException as error:
                fail(send, error)
                return
            if not begun:
                begun = True
                send(wire.RESULT, _stream_meta(reply, piece_kind(piece)), b"")
            for start in range(0, len(data), CHUNK_LIMIT):
                send(wire.CHUNK, {}, data[start : start + CHUNK_LIMIT])
        if not begun:
            send(wire.RESULT, _stream_meta(reply, reply.kind), b"")
        flush_output()
        send(wire.END, {}, b"")
    finally:
        _close(pieces)


def _stream_meta(reply: Reply, kind: str) -> dict[str, Any]:
    return {"status": reply.status, "headers": reply.headers, "kind": kind, "stream": True}


def _await(awaitable: Any) -> Any:
    """What `awaitable` comes to. asyncio costs 3 ms and 4 MB, TLS included, so who needs no loop does not import
    one.
    """
    from . import loop

    return loop.run(awaitable)


def _from_async(source: Any) -> Iterator[Any]:
    try:
        while True:
            try:
                yield _await(source.__anext__())
            except StopAsyncIteration:
                return
    finally:
        aclose = getattr(source, "aclose", None)
        if aclose is not None:
            _await(aclose())


def _close(pieces: Any) -> None:
    """End a generator that was not read to its end; what its own clean-up raises goes to its output."""
    close = getattr(pieces, "close", None)
    if close is not None:
        try:
            close()
        except BaseException:
            traceback.print_exc()
