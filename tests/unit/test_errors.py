"""The exception tree: codes unique, both tables complete, and what the gateway raises the client raises again."""

from __future__ import annotations

import pytest

from quilt_fn import errors
from quilt_fn.errors import QuiltError, all_errors, exit_code, from_body, http_status


def every_class() -> list[type[QuiltError]]:
    found: list[type[QuiltError]] = []
    todo = [QuiltError]
    while todo:
        cls = todo.pop()
        found.append(cls)
        todo.extend(cls.__subclasses__())
    return [cls for cls in found if cls.__module__ == errors.__name__]


def test_each_class_but_the_base_has_a_code_of_its_own() -> None:
    classes = [cls for cls in every_class() if cls is not QuiltError]
    codes = [cls.error_code for cls in classes]
    assert len(codes) == len(set(codes))
    assert {all_errors()[cls.error_code] for cls in classes} == set(classes)


def test_the_tree_at_the_top_of_the_file_names_every_class() -> None:
    assert errors.__doc__ is not None
    for cls in every_class():
        assert cls.__name__ in errors.__doc__


@pytest.mark.parametrize("cls", every_class(), ids=lambda cls: cls.__name__)
def test_each_has_a_status_an_exit_code_and_comes_back_as_itself(cls: type[QuiltError]) -> None:
    error = cls("what happened", details={"a": 1}, hint="do this", retry_after=2.0)
    assert 400 <= http_status(error) <= 599
    assert exit_code(error) in (1, 2, 3, 4, 5, 6, 124)
    if cls is QuiltError:
        return
    body = {
        "error": error.message, "error_code": error.error_code, "details": error.details, "hint": error.hint,
        "retry_after": error.retry_after,
    }  # fmt: skip
    again = from_body(body)
    assert type(again) is cls
    assert (again.message, again.details, again.hint, again.retry_after) == ("what happened", {"a": 1}, "do this", 2.0)


def test_an_unknown_code_is_a_quilt_error() -> None:
    assert type(from_body({"error": "?", "error_code": "FROM_THE_FUTURE"})) is QuiltError
    assert from_body({}).message


@pytest.mark.parametrize(
    ("code", "status"),
    [("QUEUE_FULL", 429), ("INVOCATION_TIMEOUT", 504), ("INSTANCE_DIED", 502), ("FUNCTION_PAUSED", 409),
     ("FUNCTION_BROKEN", 503), ("REGISTRY_UNAVAILABLE", 503), ("HANDLER_ERROR", 500), ("BUNDLE_INVALID", 422)],
)  # fmt: skip
def test_statuses_of_the_contract(code: str, status: int) -> None:
    assert http_status(all_errors()[code]("x")) == status
