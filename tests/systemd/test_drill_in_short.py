"""The drill in short: about ten rounds of every campaign, judged by the wire.

Ten, so that instants drawn at random fall before a run, into its ramp, its hold and its end. Fewer
where a round is long: a hang waits for the watchdog, an instrument out of reach has to be out of
reach; they fail by their kind, not by their instant, and ``make drill`` runs more. A round costs
two to four seconds of computing (a daemon starts, a bundle is sealed) and three to eight of time;
two booted managers share a campaign's rounds side by side. 98 rounds take three and a half minutes
on an idle machine of two cores.

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
ROUNDS = {
    "kill-9": 10,
    "hang": 6,
    "sigint": 10,
    "sigterm": 10,
    "loop-blocked": 6,
    "port-gone": 4,
    "mute": 4,
    "garbage": 10,
    "disk-full": 10,
    "no-plan": 10,
    "kill-in-start": 10,
    "kill-in-guard": 8,
}
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
    n = ROUNDS[campaign.name]
    outcome = run_side_by_side(benches, campaign, n=n, seed=2, evidence=tmp_path)
    assert not outcome.failures, f"evidence in {tmp_path}"
    assert outcome.n == n
