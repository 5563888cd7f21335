"""`Client().containers` on a real platform: commands, as Python has them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quilt_fn.client import Client
from quilt_fn.containers import Container
from tests.integration.live import Live


@pytest.fixture(scope="module")
def client(platform_of_all: Live) -> Client:
    return Client(f"http://127.0.0.1:{platform_of_all.port}", platform_of_all.key)


@pytest.fixture(scope="module")
def box(client: Client) -> Iterator[Container]:
    with client.containers.create("from-python") as made:
        yield made


def test_what_is_no_text_goes_in_and_comes_out(box: Container) -> None:
    every = bytes(range(256)) * 100
    done = box.exec("sh", "-c", "cat; echo plain >&2", stdin=every)
    assert (done.stdout_bytes, done.stderr, done.stderr_b64) == (every, "plain\n", None)
    text = box.exec("cat", stdin="é\n")
    assert (text.stdout, text.stdout_b64, text.stdout_bytes) == ("é\n", None, "é\n".encode())


async def test_the_same_awaited(box: Container) -> None:
    assert (await box.exec.aio("cat", stdin=b"\xff")).stdout_bytes == b"\xff"
