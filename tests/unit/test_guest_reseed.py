"""Copies of one process differ after reseed, and only by its entropy."""

from __future__ import annotations

import multiprocessing
import random
import ssl
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest

from runtime.guest.reseed import reseed

ONE, TWO = b"1" * 64, b"2" * 64


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    before = {name: getattr(uuid, name) for name in ("_node", "_generate_time_safe", "_last_timestamp")}
    states = random.getstate(), numpy.random.get_state(), multiprocessing.current_process().authkey
    yield
    for name, value in before.items():
        setattr(uuid, name, value)
    random.setstate(states[0])
    numpy.random.set_state(states[1])
    multiprocessing.current_process().authkey = states[2]
    tempfile._name_sequence = None  # type: ignore[attr-defined]


@pytest.mark.parametrize("draw", [random.random, lambda: float(numpy.random.random()), uuid.getnode])
def test_generators_follow_the_entropy(draw: Callable[[], Any]) -> None:
    drawn = []
    for entropy in (ONE, TWO, ONE):
        reseed(entropy)
        drawn.append(draw())
    assert drawn[0] == drawn[2] != drawn[1]


def test_uuid1_has_a_node_of_its_own_that_is_no_network_cards() -> None:
    nodes = []
    for entropy in (ONE, TWO):
        reseed(entropy)
        nodes.append(uuid.uuid1().node)
    assert nodes[0] != nodes[1]
    assert all(node >> 40 & 1 for node in nodes)


def test_temporary_names_and_keys_start_anew() -> None:
    before = tempfile._get_candidate_names(), multiprocessing.current_process().authkey  # type: ignore[attr-defined]
    reseed(ONE)
    after = tempfile._get_candidate_names(), multiprocessing.current_process().authkey  # type: ignore[attr-defined]
    assert before[0] is not after[0]
    assert before[1] != after[1]


def test_openssl_goes_on() -> None:
    reseed(ONE)
    first = ssl.RAND_bytes(16)
    reseed(ONE)
    assert first != ssl.RAND_bytes(16)


def test_little_entropy_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32"):
        reseed(b"x" * 31)
