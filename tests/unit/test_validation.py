"""What a refused field is told: words for people, never a pattern."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.app import CONCERNS, ROUTES
from gateway.openapi import document
from quilt_fn.model import patterns
from quilt_fn.model.container import ContainerCreate
from quilt_fn.model.validation import from_validation


def patterns_in(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        schema = list(schema.values())
    if isinstance(schema, list):
        for each in schema:
            yield from patterns_in(each)


def test_every_pattern_of_every_route_has_words() -> None:
    found = set(patterns_in(document(ROUTES, CONCERNS)["components"]["schemas"]))
    assert found and found <= patterns.WORDS.keys()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"name": "Bad Name"}, "name: a name of lower-case letters, digits and `-` is needed"),
        ({"name": "x", "volumes": ["v1"]}, "volumes.0: `<volume>:<target>` is needed"),
        ({"name": "x", "volumes": ["v1:/"]}, "the target is an absolute path below /"),
        ({"name": "x", "working_directory": "srv"}, "working_directory: an absolute path is needed"),
        ({"name": "x", "oci": "debian:13"}, "oci: there is no such field"),
    ],
)
def test_a_field_that_is_refused_says_what_is_needed(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ContainerCreate.model_validate(spec)
    assert said in from_validation(refused.value).message
