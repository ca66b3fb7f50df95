"""One twin for all process tests of a module: it outlives daemons, as instruments do."""

from collections.abc import Iterator

import pytest

from tests.support.daemon_process import Twin, running_twin


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    with running_twin(tmp_path_factory.mktemp("twin")) as running:
        yield running
