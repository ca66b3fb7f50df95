"""Runs a campaign: round after round, each judged by the wire; on one bench or on several."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

from tests.drill.bench import Bench
from tests.drill.campaigns import Blow, Campaign
from tests.drill.figures import Outcome
from tests.drill.judging import OutputVerdict, judge

__all__ = ["run_campaign", "run_side_by_side"]

GIVE_UP = 3


def run_campaign(
    bench: Bench,
    campaign: Campaign,
    *,
    n: int,
    seed: int,
    evidence: Path,
    say: Callable[[str], None] = lambda _line: None,
    afresh: bool = True,
) -> Outcome:
    """Run ``n`` rounds; what a failure left is kept under ``evidence``.

    Without ``afresh`` the bench is taken as the campaign before has left it, if nothing failed.
    """
    rng = Random(f"{seed} {campaign.name}")  # noqa: S311 - instants, not secrets
    outcome = Outcome(campaign)
    if afresh:
        bench.fresh()
    in_a_row = 0
    for number in range(n):
        if in_a_row == GIVE_UP:
            say(f"{campaign.name}: given up, {GIVE_UP} rounds in a row failed")
            break
        began_s = time.monotonic()
        wrong = _round(bench, campaign, rng, outcome)
        in_a_row = in_a_row + 1 if wrong else 0
        if wrong:
            bench.keep_evidence(evidence / f"{campaign.name}-{number}")
            say(f"{campaign.name} {number + 1}/{n} FAILED: {wrong.splitlines()[0]}")
            bench.fresh()
        elif number == 0 or (number + 1) % 10 == 0:
            took_s = time.monotonic() - began_s
            say(f"{campaign.name} {number + 1}/{n}, {took_s:.1f} s a round")
    return outcome


def run_side_by_side(
    benches: Sequence[Bench], campaign: Campaign, *, n: int, seed: int, evidence: Path
) -> Outcome:
    """Share ``n`` rounds among benches that run at once: a round waits more than it computes."""
    shares = [(n + number) // len(benches) for number in range(len(benches))]

    def share(number: int) -> Outcome:
        return run_campaign(
            benches[number],
            campaign,
            n=shares[number],
            seed=seed + number,
            evidence=evidence / f"bench-{number}",
            afresh=False,
        )

    outcome = Outcome(campaign)
    with ThreadPoolExecutor(len(benches)) as pool:
        for part in pool.map(share, range(len(benches))):
            outcome.include(part)
    return outcome


def _round(bench: Bench, campaign: Campaign, rng: Random, outcome: Outcome) -> str:
    bench.wire.forget()
    try:
        blow = campaign.strike(bench, rng)
    except AssertionError as error:
        outcome.fail(str(error))
        return str(error)
    return outcome.add(_verdicts(bench, blow), must_prove=blow.must_prove)


def _verdicts(bench: Bench, blow: Blow) -> list[OutputVerdict]:
    records = bench.wire.read()
    return [judge(records, o, blow.later.get(o.channel, blow.at_ns)) for o in bench.outputs]
