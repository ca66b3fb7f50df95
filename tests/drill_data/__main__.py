"""``python -m tests.drill_data --n 300``: kill, then judge; exits with 1 when anything is wrong."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.check_data import check
from tests.drill_data.campaign import run_campaign


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drill_data", description=__doc__)
    parser.add_argument("--n", type=int, default=300, help="kills (default: 300)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the instants")
    parser.add_argument("--out", type=Path, help="a new folder to work in (default: a temporary)")
    arguments = parser.parse_args()
    folder = arguments.out or Path(tempfile.mkdtemp(prefix="capad-drill-data-"))
    _say(f"{arguments.n} kills, seed {arguments.seed}, in {folder}")
    began_s = time.monotonic()
    campaign = run_campaign(folder, n=arguments.n, seed=arguments.seed, say=_say)
    findings = check(folder)
    for line in findings.wrong:
        _say(f"WRONG {line}")
    told = {"wrong": len(findings.wrong), **findings.counts, "by phase": dict(campaign.kills)}
    _say(json.dumps(told, indent=2, sort_keys=True))
    took_s = time.monotonic() - began_s
    _say(f"{len(findings.wrong)} findings after {arguments.n} kills of the daemon, {took_s:.0f} s")
    return 1 if findings.wrong else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
