"""What a guest's frames may claim, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from runtime import answers


def test_a_result_is_taken_as_it_stands() -> None:
    headers = [["Set-Cookie", "a=1"], ["Set-Cookie", "b=gr\xfcn"]]
    outcome = answers.result({"status": 201, "headers": headers, "kind": "text"}, b"body")
    assert (outcome.failure, outcome.status, outcome.headers) == (None, 201, headers)
    assert (outcome.kind, outcome.body) == ("text", b"body")
    plain = answers.result({}, b"1")
    assert (plain.failure, plain.status, plain.headers, plain.kind) == (None, 200, [], "json")


@pytest.mark.parametrize("status", [200, 299, 404, 499, 520, 599])
def test_a_status_need_not_be_a_registered_one(status: int) -> None:
    assert answers.result({"status": status}, b"").failure is None


@pytest.mark.parametrize(
    "meta",
    [
        {"status": "200"},
        {"status": True},
        {"status": None},
        {"status": 99},
        {"status": 101},
        {"status": 199},
        {"status": 600},
        {"headers": 5},
        {"headers": [[1, 2]]},
        {"headers": [["a", "b", "c"]]},
        {"headers": ["ab"]},
        {"headers": [["X-A", "1\r\nX-B: 2"]]},
        {"headers": [["X-A", "1\0"]]},
        {"headers": [["X A", "1"]]},
        {"headers": [["", "1"]]},
        {"headers": [["X-A", "gr\u4e00n"]]},
        {"kind": "html"},
        {"kind": []},
    ],
)
def test_what_is_no_response_is_the_functions_failure(meta: dict[str, Any]) -> None:
    outcome = answers.result(meta, b"body")
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.type) == ("RESULT_NOT_SERIALISABLE", "BadResponse")
    assert (outcome.body, outcome.headers) == (b"", [])


def test_what_a_refusal_quotes_is_short() -> None:
    failure = answers.result({"headers": [["X-A", "\n" * 100_000]]}, b"").failure
    assert failure is not None and len(failure.message) <= 500


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        ({"code": "HANDLER_ERROR", "type": "ValueError"}, "HANDLER_ERROR"),
        ({"code": "HANDLER_ERROR", "type": "MemoryError"}, "HANDLER_OUT_OF_MEMORY"),
        ({"code": "RESULT_TOO_LARGE"}, "RESULT_TOO_LARGE"),
        ({"code": "BAD_EVENT"}, "INVALID_REQUEST"),
        ({"code": "UNAUTHORIZED"}, "HANDLER_ERROR"),  # an error of the platform is not a function's to claim
        ({"code": []}, "HANDLER_ERROR"),
        ({}, "HANDLER_ERROR"),
    ],
)
def test_a_failure_is_one_that_a_function_can_have(meta: dict[str, Any], code: str) -> None:
    failure = answers.failure(meta, b"pickled")
    assert (failure.code, failure.pickled) == (code, b"pickled")
