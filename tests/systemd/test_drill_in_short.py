"""The drill in short: ten rounds of every campaign, judged by the wire.

Ten, so that instants drawn at random fall before a run, into its ramp, its hold and its end: 120
rounds. A round costs two to four seconds of computing (a daemon starts, a bundle is sealed) and
three to eight of time; five run on each of two booted managers side by side, which is what two
cores bear beside other tests.

Shorter than on a box, to fit into ``make test``: the watchdog bites after 1 s instead of 3, systemd
starts again after 0.1 s instead of 1, instruments are out of reach for 3 s instead of 10. Whether
the rig ends safe and stays so does not depend on it; how fast, ``make drill`` measures.
"""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.drill.bench import Bench, open_bench
from tests.drill.campaigns import CAMPAIGNS, Campaign
from tests.drill.rounds import run_side_by_side
from tests.support.private_systemd import why_not

HASTE = "WatchdogSec=1s\nRestartSec=100ms\n"
AWAY_S = 3.0
ROUNDS = 10
BENCHES = 2

REASON = why_not()
if REASON is not None:
    warnings.warn(f"THE DRILL IS NOT RUN: {REASON}", UserWarning, stacklevel=1)

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.skipif(REASON is not None, reason=f"no private systemd: {REASON}"),
]


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Bench]]:
    with ExitStack() as stack:
        folders = [tmp_path_factory.mktemp("drill") for _ in range(BENCHES)]
        hasty = [open_bench(folder, drop_in=HASTE, away_s=AWAY_S) for folder in folders]
        yield [stack.enter_context(bench) for bench in hasty]


@pytest.mark.parametrize("campaign", CAMPAIGNS, ids=lambda campaign: campaign.name)
def test_whatever_is_done_to_it_the_rig_ends_safe_and_stays_so(
    benches: list[Bench], campaign: Campaign, tmp_path: Path
) -> None:
    outcome = run_side_by_side(benches, campaign, n=ROUNDS, seed=2, evidence=tmp_path)
    assert not outcome.failures, f"evidence in {tmp_path}"
    assert outcome.n == ROUNDS
