"""ASGI and WSGI apps as handlers: the request that they see, and the frames that their answers become."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runtime.guest import loop, wire
from runtime.guest.handler import Handler, StaticInfo

STATIC = StaticInfo(instance_id="ins_1", function_name="hello", version=1, memory_limit_mb=256, result_limit=1000)
REQUEST = {
    "method": "POST",
    "path": "/sub/é",
    "query": "a=1",
    "headers": [["Host", "box:8420"], ["Content-Type", "text/plain"], ["X-A", "1"], ["X-A", "2"]],
    "remote": "10.0.0.1",
}
Frame = tuple[int, dict[str, Any], bytes]


@pytest.fixture(autouse=True)
def no_loop_left() -> Iterator[None]:
    yield
    loop.close()


def call(app: Callable[..., Any], body: bytes = b"in", req: Any = REQUEST) -> list[Frame]:
    frames: list[Frame] = []
    handler = Handler(app)
    assert handler.wants_request
    meta = {"id": "inv_1", "kind": "json", "deadline": 0, "req": req}
    handler.serve(meta, body, lambda t, m, b: frames.append((t, m, b)), STATIC)
    return frames


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def piece(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


def http(serve: Callable[..., Any]) -> Callable[..., Any]:
    """An app without lifespan around `serve`."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await serve(scope, receive, send)

    return app


def test_an_asgi_app_sees_the_request_and_answers() -> None:
    seen: list[Any] = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        seen.extend([scope, await receive()])
        await send(start(201, (b"X-B", b"c")))
        await send(piece(b"out"))
        assert await receive() == {"type": "http.disconnect"}

    assert call(http(serve)) == [
        (wire.RESULT, {"status": 201, "headers": [["X-B", "c"]], "kind": "bytes", "stream": False}, b"out")
    ]
    scope, first = seen
    assert first == {"type": "http.request", "body": b"in", "more_body": False}
    assert (scope["method"], scope["root_path"], scope["path"]) == ("POST", "/fn/hello", "/fn/hello/sub/é")
    assert (scope["raw_path"], scope["query_string"]) == ("/fn/hello/sub/é".encode(), b"a=1")
    assert scope["headers"][2:] == [(b"x-a", b"1"), (b"x-a", b"2")]


def test_an_asgi_stream_goes_out_as_it_comes() -> None:
    async def serve(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(piece(b"a", True))
        await send(piece(b"b", True))
        await send(piece(b""))

    frames = call(http(serve))
    assert [(frame[0], frame[2]) for frame in frames] == [
        (wire.RESULT, b""), (wire.CHUNK, b"a"), (wire.CHUNK, b"b"), (wire.END, b""),
    ]  # fmt: skip


def test_lifespan_starts_at_load_and_its_state_reaches_requests() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            assert (await receive())["type"] == "lifespan.startup"
            scope["state"]["model"] = "loaded"
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send(start())
        await send(piece(scope["state"]["model"].encode()))

    assert call(app)[0][2] == b"loaded"


def test_a_startup_that_fails_fails_the_load() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(RuntimeError, match="no database"):
        Handler(app)


def test_asgi_apps_that_go_wrong() -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        return

    async def raising(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("x")

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(piece(b"a", True))
        raise ValueError("x")

    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(piece(b"x" * 1001))

    async def split(scope: Any, receive: Any, send: Any) -> None:
        await send(start(200, (b"A", b"b\r\nC: d")))

    assert "without a complete response" in call(http(silent))[0][1]["message"]
    assert call(http(raising))[0][1]["type"] == "ValueError"
    assert [frame[0] for frame in call(http(late))] == [wire.RESULT, wire.CHUNK, wire.FAIL]
    assert call(http(large))[0][1]["code"] == "RESULT_TOO_LARGE"
    assert call(http(split))[0][1]["code"] == "RESULT_NOT_SERIALISABLE"


def test_a_node_that_is_gone_is_no_failure_of_the_app() -> None:
    async def serve(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        try:
            await send(piece(b"a", True))
        except Exception:
            await send(piece(b"b"))

    def send(kind: int, meta: dict[str, Any], body: bytes) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Handler(http(serve)).serve({"id": "i", "kind": "none", "deadline": 0}, b"", send, STATIC)


def test_three_parameters_alone_make_no_app() -> None:
    async def handler(a: int, b: int, c: int) -> int:
        return a + b + c

    assert Handler(handler).wants_request  # (event, context, …): what goes wrong then is the caller's to read
    frames: list[Frame] = []
    Handler(handler).serve({"id": "i", "kind": "json", "deadline": 0}, b"1", lambda *f: frames.append(f), STATIC)
    assert frames[0][1]["type"] == "TypeError"


class WsgiEcho:
    def __init__(self, *answer: Any) -> None:
        self.answer = answer
        self.environ: dict[str, Any] = {}
        self.body = b""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.environ = environ
        self.body = environ["wsgi.input"].read()
        status, headers, result = self.answer
        start_response(status, headers)
        return result


def test_a_wsgi_app_sees_the_request_and_answers() -> None:
    app = WsgiEcho("201 Made", [("X-B", "c")], [b"a", b"b"])
    assert call(app) == [
        (wire.RESULT, {"status": 201, "headers": [["X-B", "c"]], "kind": "bytes", "stream": False}, b"ab")
    ]
    environ = app.environ
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/fn/hello", "/sub/é".encode().decode("latin-1"))
    assert (environ["REQUEST_METHOD"], environ["QUERY_STRING"], environ["CONTENT_TYPE"]) == (
        "POST",
        "a=1",
        "text/plain",
    )
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"], environ["HTTP_X_A"]) == ("box", "8420", "1,2")
    assert app.body == b"in"


def test_wsgi_streams_where_no_length_is_declared() -> None:
    kinds = [frame[0] for frame in call(WsgiEcho("200 OK", [], iter([b"a", b"", b"b"])))]
    assert kinds == [wire.RESULT, wire.CHUNK, wire.CHUNK, wire.END]
    frames = call(WsgiEcho("200 OK", [("Content-Length", "2")], iter([b"a", b"b"])))
    assert [(frame[0], frame[2]) for frame in frames] == [(wire.RESULT, b"ab")]


def test_a_wsgi_result_is_closed() -> None:
    closed: list[bool] = []

    class Result:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"a", b"b"])

        def close(self) -> None:
            closed.append(True)

    call(WsgiEcho("200 OK", [], Result()))
    assert closed == [True]


def test_wsgi_apps_that_go_wrong() -> None:
    def silent(environ: Any, start_response: Any) -> Any:
        return [b"x"]

    def late(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"a"
        raise ValueError("x")

    def split(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("A", "b\r\nC: d")])
        return [b"x"]

    assert "without calling start_response" in call(silent)[0][1]["message"]
    assert [frame[0] for frame in call(late)] == [wire.RESULT, wire.CHUNK, wire.FAIL]
    assert [call(app)[-1][1]["code"] for app in (silent, late)] == ["HANDLER_ERROR"] * 2
    meta = call(split)[0][1]
    assert (meta["code"], meta["traceback"]) == ("RESULT_NOT_SERIALISABLE", None)


def test_an_event_without_http_is_a_post() -> None:
    app = WsgiEcho("200 OK", [], [b""])
    call(app, json.dumps({"a": 1}).encode(), req=None)
    assert (app.environ["REQUEST_METHOD"], app.environ["PATH_INFO"], app.body) == ("POST", "/", b'{"a": 1}')


def test_an_app_cannot_be_called_by_the_sdk() -> None:
    frames: list[Frame] = []
    meta = {"id": "i", "kind": "pickle", "deadline": 0}
    Handler(WsgiEcho("200 OK", [], [])).serve(meta, b"", lambda *f: frames.append(f), STATIC)
    assert frames[0][1]["code"] == "BAD_EVENT"
