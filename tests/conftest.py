"""What every layer's tests share."""

import signal
from pathlib import Path

import hypothesis
import pytest
import trio.testing

from tests.support.virtual_time import threads_in_place

# How long an example takes is the machine's load, not a promise.
hypothesis.settings.register_profile("capad", deadline=None)
hypothesis.settings.load_profile("capad")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Begun in the background of a script: what tests start would ignore an operator's Ctrl-C, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_LONGEST_FIRST = ("systemd", "process", "wire", "properties")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the layers whose files take minutes, so that none of them is waited for alone."""
    items.sort(key=lambda item: _place(item.path))


def _place(path: Path) -> int:
    layer = path.relative_to(Path(__file__).parent).parts[0]
    return _LONGEST_FIRST.index(layer) if layer in _LONGEST_FIRST else len(_LONGEST_FIRST)


@pytest.fixture
def autojump_clock(monkeypatch: pytest.MonkeyPatch) -> trio.testing.MockClock:
    """Return a clock that jumps over every wait, in a test where no thread runs beside it."""
    threads_in_place(monkeypatch)
    return trio.testing.MockClock(autojump_threshold=0)
