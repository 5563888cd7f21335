"""The guest's handler: what each kind of event, result and failure becomes on the wire. No sockets, no processes."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import os
import pickle
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import cloudpickle
import numpy
import pytest

import quilt_fn.response
from runtime.guest import loop, wire
from runtime.guest.context import Context
from runtime.guest.handler import Handler, StaticInfo

STATIC = StaticInfo(instance_id="ins_1", function_name="hello", version=3, memory_limit_mb=256, result_limit=1000)
Frame = tuple[int, dict[str, Any], bytes]


@pytest.fixture(autouse=True)
def no_loop_left() -> Iterator[None]:
    yield
    loop.close()


def call(function: Callable[..., Any], event: Any = None, kind: str = "json", **meta: Any) -> list[Frame]:
    frames: list[Frame] = []
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    full = {"id": "inv_1", "kind": kind, "deadline": time.time() + 10, "attempt": 1, **meta}
    Handler(function).serve(
        full, body, lambda t, m, b: frames.append((t, json.loads(m) if isinstance(m, bytes) else m, b)), STATIC
    )
    return frames


def result(frames: list[Frame]) -> tuple[dict[str, Any], bytes]:
    assert [frame[0] for frame in frames] == [wire.RESULT], frames
    return frames[0][1], frames[0][2]


def failure(frames: list[Frame]) -> dict[str, Any]:
    assert frames[-1][0] == wire.FAIL, frames
    return frames[-1][1]


def remote(function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Frame]:
    return call(function, cloudpickle.dumps((args, kwargs)), "pickle")


# --- events -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "body", "seen"),
    [
        ("json", b'{"a": [1, null]}', {"a": [1, None]}),
        ("text", b'{"a": 1}', '{"a": 1}'),
        ("text", b"123", "123"),
        ("text", b"not {json", "not {json"),
        ("text", b"", ""),
        ("none", b"", {}),
    ],
)
def test_an_event_is_what_its_kind_says(kind: str, body: bytes, seen: Any) -> None:
    events: list[Any] = []
    call(events.append, body, kind)
    assert events == [seen]


@pytest.mark.parametrize(
    ("content_type", "body", "seen"),
    [
        ("text/plain; charset=ISO-8859-1", b"\xfc", "\u00fc"),
        ('Text/CSV;charset="utf-8"', "\u00fc".encode(), "\u00fc"),
        ("text/plain", b"123", "123"),
        ("application/octet-stream", b"\xff", "\ufffd"),
    ],
)
def test_text_of_a_request_is_decoded_by_its_charset(content_type: str, body: bytes, seen: str) -> None:
    events: list[Any] = []
    call(events.append, body, "text", req={"headers": [["content-type", content_type]]})
    assert events == [seen]


@pytest.mark.parametrize("charset", ["utf-8", "of-no-name"])
def test_text_that_is_not_in_its_charset_is_refused(charset: str) -> None:
    headers = [["A", "b"], ["Content-Type", f"text/x; charset={charset}"]]
    assert failure(call(lambda event: event, b"\xff", "text", req={"headers": headers}))["code"] == "BAD_EVENT"


def test_without_a_body_the_query_is_the_event() -> None:
    assert (
        result(call(lambda event: event, b"", "none", req={"query": "a=1&b=%C3%A9"}))[1] == '{"a":"1","b":"é"}'.encode()
    )


@pytest.mark.parametrize("body", [b"{", b"", b"\xff", b"NaN", b"[" * 100_000])
def test_an_event_that_is_no_json_is_refused(body: bytes) -> None:
    assert failure(call(lambda event: event, body))["code"] == "BAD_EVENT"


def test_environment_is_set_for_the_call_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUILT_TEST_OLD", "before")
    monkeypatch.delenv("QUILT_TEST_NEW", raising=False)
    names = ("QUILT_TEST_OLD", "QUILT_TEST_NEW")
    frames = call(lambda event: [os.environ.get(n) for n in names], env={"QUILT_TEST_OLD": "x", "QUILT_TEST_NEW": "y"})
    assert result(frames)[1] == b'["x","y"]'
    assert [os.environ.get(n) for n in names] == ["before", None]


# --- who gets a context -------------------------------------------------------------------------------------------


class Callable2:
    def __call__(self, event: Any, context: Any) -> Any:
        return context.attempt


def _partial(first: Any, event: Any, context: Any) -> Any:
    return context.attempt


@pytest.mark.parametrize(
    ("function", "wants"),
    [
        (lambda event, context: 0, True),
        (lambda event, context=None: 0, True),
        (lambda event, _ctx=None: 0, True),
        (lambda event, anything: 0, True),
        (lambda *args: 0, True),
        (lambda event, verbose=False: 0, False),
        (lambda event, *, context=None: 0, False),
        (lambda event: 0, False),
        (lambda: 0, False),
        (Callable2(), True),
        (functools.partial(_partial, 1), True),
        (len, False),
        (print, True),
    ],
)
def test_a_second_parameter_asks_for_a_context(function: Callable[..., Any], wants: bool) -> None:
    assert Handler(function).wants_request is wants


def test_a_handler_without_parameters_is_called_without() -> None:
    assert result(call(lambda: "here"))[1] == b"here"


def test_context_has_our_names_and_lambdas() -> None:
    seen: list[Context] = []
    req = {"method": "PUT", "path": "/x", "query": "q=1", "headers": [["X-A", "1"], ["x-a", "2"]], "remote": "10.0.0.1"}
    call(lambda event, context: seen.append(context), {"n": 1}, req=req, attempt=2)
    context = seen[0]
    assert (context.invocation_id, context.aws_request_id) == ("inv_1", "inv_1")
    assert (context.function_name, context.version, context.function_version) == ("hello", 3, "3")
    assert (context.memory_limit_mb, context.memory_limit_in_mb, context.attempt) == (256, 256, 2)
    assert 0 < context.get_remaining_time_in_millis() <= 10_000
    assert context.request is not None
    assert (context.request.method, context.request["path"], context.request.query) == ("PUT", "/x", {"q": "1"})
    assert (context.request.headers["X-a"], context.request.headers.get_all("X-A")) == ("1", ["1", "2"])
    assert context.request.body == b'{"n": 1}'
    assert set(context.request) >= {"method", "path", "headers", "query", "body"}


def test_context_without_http_has_no_request() -> None:
    assert result(call(lambda event, context: context.request is None))[1] == b"true"


# --- results ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind", "body"),
    [
        ({"a": "é"}, "json", '{"a":"é"}'.encode()),
        ([1, 2.5], "json", b"[1,2.5]"),
        (None, "json", b"null"),
        (True, "json", b"true"),
        (7, "json", b"7"),
        ("text", "text", b"text"),
        (b"\x00", "bytes", b"\x00"),
        (bytearray(b"ab"), "bytes", b"ab"),
        ((1, 2), "json", b"[1,2]"),
        ((1, 150), "json", b"[1,150]"),
        (([], 999), "json", b"[[],999]"),
        (("a", True), "json", b'["a",true]'),
        (("a", 42, "b"), "json", b'["a",42,"b"]'),
        ({"half": "\ud800"}, "json", b'{"half":"\\ud800"}'),
    ],
)
def test_plain_results(value: Any, kind: str, body: bytes) -> None:
    assert result(call(lambda event: value)) == ({"status": 200, "headers": [], "kind": kind, "stream": False}, body)


@pytest.mark.parametrize(
    ("value", "status", "headers", "kind", "body"),
    [
        (("made", 201), 201, [], "text", b"made"),
        (({"a": 1}, 404, {"X-A": "b"}), 404, [["X-A", "b"]], "json", b'{"a":1}'),
        ((b"x", 200, [("A", "a"), ("A", "b")]), 200, [["A", "a"], ["A", "b"]], "bytes", b"x"),
        (quilt_fn.response.Response({"a": 1}, 202, {"X-A": "b"}), 202, [["X-A", "b"]], "json", b'{"a":1}'),
        ({"statusCode": 302, "headers": {"Location": "/x"}}, 302, [["Location", "/x"]], "text", b""),
        ({"statusCode": "200", "body": "aGk=", "isBase64Encoded": True}, 200, [], "bytes", b"hi"),
        ({"statusCode": 200, "body": "hi", "multiValueHeaders": {"A": ["1", "2"]}, "cookies": ["c=d"]},
         200, [["A", "1"], ["A", "2"], ["Set-Cookie", "c=d"]], "text", b"hi"),
    ],
)  # fmt: skip
def test_results_with_a_status(value: Any, status: int, headers: Any, kind: str, body: bytes) -> None:
    meta, sent = result(call(lambda event: value))
    assert (meta["status"], meta["headers"], meta["kind"], sent) == (status, headers, kind, body)


async def _async_handler(event: Any) -> Any:
    await asyncio.sleep(0)
    return event


def test_async_handlers_share_one_loop() -> None:
    loops: list[Any] = []

    async def handler(event: Any) -> int:
        loops.append(asyncio.get_running_loop())
        return len(loops)

    assert result(call(handler))[1] == b"1"
    assert result(call(handler))[1] == b"2"
    assert loops[0] is loops[1]
    assert result(call(_async_handler, {"a": 1}))[1] == b'{"a":1}'


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append({"again": circle})
    return circle


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"rows": [{"n": numpy.int64(1)}]}, "result['rows'][0]['n'] is a numpy.int64"),
        ({"at": [float("nan")]}, "result['at'][0] is nan"),
        ({(1, 2): 3}, "a key of type tuple"),
        ([{1, 2}], "return a list"),
        (_circle(), "holds itself"),
        ("\ud800", "cannot be sent as UTF-8"),
        (("x", 200, {"A": "b\r\nC: d"}), "not a header"),
        (("x", 200, 5), "headers must be"),
        ({"statusCode": 99}, "from 200 to 599"),
        (("x", 999), "from 200 to 599"),
        (({"a": 1}, 20, {"X-A": "b"}), "from 200 to 599"),
        ((b"x", 100, []), "from 200 to 599"),
        ((iter([b"x"]), 0), "from 200 to 599"),
        ({"statusCode": None}, "must be a number"),
        ({"statusCode": 200, "body": "%", "isBase64Encoded": True}, "not base64"),
        (object(), "result is a builtins.object"),
    ],
)
def test_what_cannot_be_sent_is_named(value: Any, said: str) -> None:
    meta = failure(call(lambda event: value))
    assert meta["code"] == "RESULT_NOT_SERIALISABLE"
    assert said in meta["message"]


def test_a_result_over_the_limit_is_refused() -> None:
    assert failure(call(lambda event: "x" * 1001))["code"] == "RESULT_TOO_LARGE"
    assert failure(remote(lambda: "x" * 1001))["code"] == "RESULT_TOO_LARGE"
    assert len(result(call(lambda event: "x" * 1000))[1]) == 1000


# --- streams ------------------------------------------------------------------------------------------------------


def _numbers(event: Any) -> Iterator[Any]:
    yield "a"
    yield b"b"
    yield {"c": 1}


async def _async_numbers(event: Any) -> AsyncIterator[str]:
    for letter in "ab":
        await asyncio.sleep(0)
        yield letter


def test_a_generator_is_a_stream() -> None:
    frames = call(_numbers)
    assert [frame[0] for frame in frames] == [wire.RESULT, wire.CHUNK, wire.CHUNK, wire.CHUNK, wire.END]
    assert frames[0][1] == {"status": 200, "headers": [], "kind": "text", "stream": True}
    assert [frame[2] for frame in frames[1:4]] == [b"a", b"b", b'{"c":1}\n']


def test_an_async_generator_is_a_stream() -> None:
    frames = call(_async_numbers)
    assert b"".join(frame[2] for frame in frames) == b"ab"
    assert frames[-1][0] == wire.END


def test_a_stream_with_status_and_headers() -> None:
    frames = call(lambda event: (iter([b"x"]), 206, {"A": "b"}))
    assert frames[0][1] == {"status": 206, "headers": [["A", "b"]], "kind": "bytes", "stream": True}


def test_an_empty_stream_ends() -> None:
    assert [frame[0] for frame in call(lambda event: iter(()))] == [wire.RESULT, wire.END]


def test_a_large_piece_goes_out_in_several() -> None:
    frames = call(lambda event: iter([b"x" * (2 << 20)]))
    assert [len(frame[2]) for frame in frames] == [0, 1 << 20, 1 << 20, 0]


def test_a_generator_that_fails_before_its_first_piece_is_a_failure() -> None:
    def broken(event: Any) -> Iterator[str]:
        raise ValueError("early")
        yield ""

    assert [frame[0] for frame in call(broken)] == [wire.FAIL]


def test_a_generator_that_fails_later_ends_the_stream() -> None:
    def broken(event: Any) -> Iterator[Any]:
        yield "a"
        yield object()

    frames = call(broken)
    assert [frame[0] for frame in frames] == [wire.RESULT, wire.CHUNK, wire.FAIL]
    assert failure(frames)["code"] == "RESULT_NOT_SERIALISABLE"


def test_a_generator_is_closed_when_the_node_is_gone() -> None:
    closed: list[bool] = []

    def endless(event: Any) -> Iterator[str]:
        try:
            while True:
                yield "x"
        finally:
            closed.append(True)

    def send(kind: int, meta: dict[str, Any], body: bytes) -> None:
        if kind == wire.CHUNK:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Handler(endless).serve({"id": "i", "kind": "none", "deadline": 0}, b"", send, STATIC)
    gc.collect()
    assert closed == [True]


# --- failures -----------------------------------------------------------------------------------------------------


class Odd(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("odd")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def _raise(error: BaseException) -> Callable[..., Any]:
    def handler(event: Any = None) -> None:
        raise error

    return handler


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (ValueError("no good"), "ValueError", "no good"),
        (SystemExit(3), "SystemExit", "sys.exit(3)"),
        (KeyboardInterrupt(), "KeyboardInterrupt", ""),
        (MemoryError(), "MemoryError", ""),
        (GeneratorExit(), "GeneratorExit", ""),
        (json.JSONDecodeError("x", "y", 0), "json.decoder.JSONDecodeError", "x: line 1"),
        (Mute(), f"{__name__}.Mute", "cannot be had"),
        (ValueError("x" * 100_000), "ValueError", "left out"),
        (ValueError("\ud800"), "ValueError", "\\ud800"),
    ],
)
def test_whatever_is_raised_is_a_failure(error: BaseException, kind: str, said: str) -> None:
    meta = failure(call(_raise(error)))
    assert (meta["code"], meta["type"]) == ("HANDLER_ERROR", kind)
    assert said in meta["message"]
    assert len(json.dumps(meta)) < wire.META_LIMIT


def test_async_handlers_may_exit() -> None:
    async def leave(event: Any) -> None:
        sys.exit("bye")

    assert failure(call(leave))["type"] == "SystemExit"
    assert result(call(_async_handler, 1))[1] == b"1"


def test_tracebacks_begin_in_user_code() -> None:
    for handler in (_raise(ValueError("x")), _raise_async):
        text = failure(call(handler))["traceback"]
        frames = [line for line in text.splitlines() if line.startswith("  File")]
        assert frames
        assert all(__file__ in line for line in frames)


async def _raise_async(event: Any) -> None:
    raise ValueError("x")


def test_endless_recursion_is_a_failure() -> None:
    def again(event: Any) -> Any:
        return again(event)

    assert failure(call(again))["type"] == "RecursionError"


def test_output_is_flushed_before_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Out:
        def flush(self) -> None:
            order.append("flush")

    monkeypatch.setattr(sys, "stdout", Out())
    meta = {"id": "i", "kind": "none", "deadline": 0}
    Handler(lambda event: 1).serve(meta, b"", lambda t, m, b: order.append("sent"), STATIC)
    Handler(_raise(ValueError())).serve(meta, b"", lambda t, m, b: order.append("sent"), STATIC)
    assert order == ["flush", "sent", "flush", "sent"]


def test_a_handler_may_break_its_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert result(call(lambda event: 1))[1] == b"1"


# --- calls by the SDK ---------------------------------------------------------------------------------------------


def test_a_call_brings_arguments_and_takes_the_result_back() -> None:
    meta, body = result(remote(lambda a, b=0: {"sum": a + b}, 1, b=2))
    assert (meta["kind"], pickle.loads(body)) == ("pickle", {"sum": 3})
    assert pickle.loads(result(remote(_async_handler, (1, 200)))[1]) == (1, 200)


def test_a_call_takes_the_exception_back() -> None:
    frames = remote(_raise(KeyError("k")))
    assert failure(frames)["type"] == "KeyError"
    again = pickle.loads(frames[0][2])
    assert (type(again), again.args) == (KeyError, ("k",))


def test_an_exception_that_does_not_open_again_goes_as_text_alone() -> None:
    frames = remote(_raise(Odd(1, 2)))
    assert (failure(frames)["message"], frames[0][2]) == ("odd", b"")


def test_calls_that_cannot_be() -> None:
    assert failure(call(lambda: 0, b"no pickle", "pickle"))["code"] == "BAD_EVENT"
    assert failure(call(lambda: 0, pickle.dumps(5), "pickle"))["code"] == "BAD_EVENT"
    meta = failure(remote(lambda: (yield)))
    assert meta["code"] == "RESULT_NOT_SERIALISABLE"
    assert "generator" in meta["message"]
