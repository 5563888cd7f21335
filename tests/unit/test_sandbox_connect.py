"""A container that has ended is a refusal in words, wherever the look at it fails."""

from __future__ import annotations

import pytest

from runtime.spawner import sandbox
from runtime.spawner.protocol import Refused

NO_SUCH_PID = 1 << 22
"""Above what the kernel ever gives (PID_MAX_LIMIT)."""


def test_an_init_that_is_gone_is_refused_in_words() -> None:
    with pytest.raises(Refused, match="has ended") as refused:
        sandbox.connect(NO_SUCH_PID, sandbox.TEMPLATE_ADDRESS, 0, 0.1)
    assert refused.value.kind == "failed"
