"""The drill in short: a few rounds of every campaign on one booted manager, judged by the wire.

Shorter than on a box, to fit into ``make test``: the watchdog bites after 1 s instead of 3, systemd
starts again after 0.1 s instead of 1, instruments are out of reach for 3 s instead of 10. Whether
the rig ends safe and stays so does not depend on it; how fast, ``make drill`` measures.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drill.bench import Bench, open_bench
from tests.drill.campaigns import CAMPAIGNS, Campaign
from tests.drill.rounds import run_campaign
from tests.support.private_systemd import why_not

HASTE = "WatchdogSec=1s\nRestartSec=100ms\n"
ROUNDS = {
    "kill-9": 5,
    "hang": 1,
    "sigint": 3,
    "sigterm": 2,
    "loop-blocked": 2,
    "port-gone": 1,
    "mute": 1,
    "garbage": 1,
    "disk-full": 1,
    "no-plan": 1,
    "kill-in-start": 3,
    "kill-in-guard": 2,
}

REASON = why_not()
if REASON is not None:
    warnings.warn(f"THE DRILL IS NOT RUN: {REASON}", UserWarning, stacklevel=1)

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.skipif(REASON is not None, reason=f"no private systemd: {REASON}"),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with open_bench(tmp_path_factory.mktemp("drill"), drop_in=HASTE, away_s=3.0) as hurt:
        yield hurt


@pytest.mark.parametrize("campaign", CAMPAIGNS, ids=lambda campaign: campaign.name)
def test_whatever_is_done_to_it_the_rig_ends_safe_and_stays_so(
    bench: Bench, campaign: Campaign, tmp_path: Path
) -> None:
    outcome = run_campaign(bench, campaign, n=ROUNDS[campaign.name], seed=2, evidence=tmp_path)
    assert not outcome.failures, f"evidence in {tmp_path}"
    assert outcome.n == ROUNDS[campaign.name]
