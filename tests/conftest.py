"""What every layer's tests share."""

import hypothesis
import pytest
import trio.testing

from tests.support.virtual_time import threads_in_place

# How long an example takes is the machine's load, not a promise.
hypothesis.settings.register_profile("capad", deadline=None)
hypothesis.settings.load_profile("capad")


@pytest.fixture
def autojump_clock(monkeypatch: pytest.MonkeyPatch) -> trio.testing.MockClock:
    """Return a clock that jumps over every wait, in a test where no thread runs beside it."""
    threads_in_place(monkeypatch)
    return trio.testing.MockClock(autojump_threshold=0)
