"""``make drill``: every campaign, or those named; a table at the end, and in drill-out/."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.drill.bench import Bench, open_bench
from tests.drill.campaigns import CAMPAIGNS, Campaign
from tests.drill.figures import Outcome, conditions, write_figures
from tests.drill.rounds import run_campaign
from tests.support.private_systemd import why_not

_DESCRIPTION = """\
Hurt the rig in every way we know, and measure on the wire how long it takes to be safe.

Twin and daemon run as units of a private systemd (as root; nothing of the host's is touched), the
daemon by deploy/systemd/capad.service with the guardian as it is installed. Judged by the twin's
wire.jsonl alone. With no campaign named all are run, in about three quarters of an hour."""


def _arguments() -> argparse.Namespace:
    names = "\n".join(f"  {c.name:14} n={c.n:<4} {c.what}" for c in CAMPAIGNS)
    parser = argparse.ArgumentParser(
        prog="python -m tests.drill",
        description=_DESCRIPTION,
        epilog=f"campaigns:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    choices = [campaign.name for campaign in CAMPAIGNS]
    parser.add_argument("campaign", nargs="*", help="which; all by default")
    parser.add_argument("--n", type=int, help="rounds of each, instead of its own number")
    parser.add_argument("--seed", type=int, default=1, help="draws the instants (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("drill-out"), help="default: drill-out")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.campaign if name not in choices]:
        parser.error(f"no such campaign: {', '.join(unknown)}; there are {', '.join(choices)}")
    return arguments


def _say(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


def main() -> int:
    """Run the drill; 0 if nothing failed and every goal was reached, else 1."""
    arguments = _arguments()
    if (reason := why_not()) is not None:
        sys.stderr.write(f"the drill can't be run: {reason}\n")
        return 2
    chosen = [c for c in CAMPAIGNS if not arguments.campaign or c.name in arguments.campaign]
    outcomes: list[Outcome] = []
    notes = [f"seed {arguments.seed}; before: {conditions()}", ""]
    with tempfile.TemporaryDirectory() as folder, open_bench(Path(folder)) as bench:
        for campaign in chosen:
            outcomes.append(_one(bench, campaign, arguments))
            notes[1] = f"after: {conditions()}"
            write_figures(arguments.out, outcomes, notes)
    sys.stdout.write((arguments.out / "drill.txt").read_text())
    _say(f"kept in {arguments.out}/drill.txt and drill.json")
    return 0 if all(outcome.reached for outcome in outcomes) else 1


def _one(bench: Bench, campaign: Campaign, arguments: argparse.Namespace) -> Outcome:
    n = campaign.n if arguments.n is None else arguments.n
    _say(f"{campaign.name}: {campaign.what}, n={n}")
    outcome = run_campaign(
        bench, campaign, n=n, seed=arguments.seed, evidence=arguments.out, say=_say
    )
    _say(f"{campaign.name}: {len(outcome.failures)} failures")
    return outcome


if __name__ == "__main__":
    sys.exit(main())
