"""The judge of the drill, on wire logs made by hand: what is safe, proven, broken, in figures."""

from dataclasses import replace
from typing import Any

import pytest

from tests.drill.campaigns import CAMPAIGNS, Campaign
from tests.drill.figures import Outcome, percentile, table
from tests.drill.judging import Output, OutputVerdict, judge
from tests.support.safe_plans import plan_of

S = 1_000_000_000
BLOW_NS = 10 * S
FLOW = plan_of().document["links"][1]["writes"][0]
WRITE, ASK = bytes.fromhex(FLOW["request"]), bytes.fromhex(FLOW["read_back"]["request"])
PURGE = Output("purge.flow", "purge", "gas", 50.0, WRITE, ASK, FLOW["read_back"])


def at(second: float, event: str, **facts: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON values
    return {"t_ns": round(second * S), "link": "gas", "event": event, **facts}


def output(second: float, value: float) -> dict[str, Any]:
    return at(second, "output", device="purge", field="setpoint", value=value)


def frame(second: float, event: str, data: bytes) -> dict[str, Any]:
    return at(second, event, hex=data.hex())


def says(second: float, value: float) -> dict[str, Any]:
    line = f"A +014.70 +025.00 +000.00 +000.00 {value:+07.2f}     N2\r"
    return frame(second, "tx", line.encode())


def driven(second: float) -> list[dict[str, Any]]:
    """A safe write, obeyed, and read back 20 ms later."""
    write = frame(second - 0.001, "rx", WRITE)
    return [write, output(second, 50.0), frame(second + 0.01, "rx", ASK), says(second + 0.02, 50.0)]


def judged(*records: dict[str, Any]) -> OutputVerdict:
    return judge(sorted(records, key=lambda record: record["t_ns"]), PURGE, BLOW_NS)


def test_an_output_is_safe_when_it_stands_at_its_value_and_proven_when_read_back() -> None:
    verdict = judged(output(1, 200.0), *driven(10.1))
    assert verdict.was_unsafe
    assert verdict.safe_s == pytest.approx(0.1)
    assert verdict.proven_s == pytest.approx(0.12)
    assert verdict.trouble == ""


def test_one_that_stays_unsafe_is_a_broken_promise() -> None:
    verdict = judged(output(1, 200.0), frame(10.1, "rx", WRITE))
    assert verdict.safe_s is None
    assert "stands at 200, not 50" in verdict.trouble


def test_one_that_leaves_its_safe_value_after_the_proof_is_a_broken_promise() -> None:
    verdict = judged(output(1, 200.0), *driven(10.1), output(12, 120.0), *driven(13))
    assert "went to 120, 1.880 s after it was proven safe" in verdict.trouble


def test_a_setpoint_that_was_on_its_way_before_the_proof_only_costs_time() -> None:
    verdict = judged(output(1, 50.0), output(10.05, 200.0), *driven(10.3))
    assert (verdict.trouble, verdict.was_unsafe) == ("", False)
    assert verdict.safe_s == pytest.approx(0.3)


def test_a_reply_that_nobody_asked_for_or_that_says_otherwise_proves_nothing() -> None:
    write, asked = frame(10.1, "rx", WRITE), frame(10.12, "rx", ASK)
    stands = [output(1, 200.0), output(10.1, 50.0)]
    assert judged(*stands, write, says(10.11, 50.0)).proven_s is None
    assert judged(*stands, write, asked, says(10.13, 200.0)).proven_s is None
    assert judged(*stands, frame(9, "rx", WRITE), asked, says(10.13, 50.0)).proven_s is None
    assert judged(*stands, write, asked, says(10.13, 50.0)).proven_s == pytest.approx(0.13)


def test_one_that_was_safe_already_is_proven_only_by_who_drove_it_again() -> None:
    poll = [frame(10.2, "rx", ASK), says(10.21, 50.0)]
    assert judged(output(1, 50.0), *poll).proven_s is None
    verdict = judged(output(1, 50.0), frame(10.1, "rx", WRITE), *poll)
    assert verdict.safe_s == 0.0
    assert verdict.proven_s == pytest.approx(0.21)


# --- figures --------------------------------------------------------------------------------------


def campaign(**settings: Any) -> Campaign:  # noqa: ANN401 - fields of a dataclass
    return replace(CAMPAIGNS[0], goal_s=1.0, limit_s=3.0, of="proven", **settings)


def round_of(safe_s: float | None, proven_s: float | None, *, unsafe: bool = True) -> OutputVerdict:
    trouble = "it stands elsewhere" if safe_s is None else ""
    return OutputVerdict("purge.flow", unsafe, safe_s, proven_s, trouble)


def test_a_round_takes_as_long_as_its_slowest_output() -> None:
    outcome = Outcome(campaign())
    assert outcome.add([round_of(0.1, 0.2), round_of(0.3, 0.4)], must_prove=True) == ""
    assert (outcome.safe_s, outcome.proven_s, outcome.driven) == ([0.3], [0.4], 1)
    assert outcome.reached


def test_a_round_fails_that_is_not_safe_not_proven_or_past_its_limit() -> None:
    outcome = Outcome(campaign())
    assert "stands elsewhere" in outcome.add([round_of(None, None)], must_prove=False)
    assert "never proven" in outcome.add([round_of(0.1, None)], must_prove=False)
    assert "never proven" in outcome.add([round_of(0.0, None, unsafe=False)], must_prove=True)
    assert "the limit is 3" in outcome.add([round_of(3.1, 3.2)], must_prove=True)
    assert (outcome.n, len(outcome.failures), outcome.reached) == (4, 4, False)


def test_a_goal_is_missed_by_its_percentile_and_by_a_campaign_without_figures() -> None:
    outcome = Outcome(campaign())
    reached = [outcome.reached]
    for proven_s in (*[0.2] * 99, 2.0, 2.0):
        outcome.add([round_of(0.1, proven_s)], must_prove=True)
        reached.append(outcome.reached)
    assert (reached[0], reached[1], reached[99]) == (False, True, True)
    assert (reached[100], reached[101]) == (True, False)  # one in a hundred may be late
    assert "MISSED" in table([outcome])
    assert percentile(outcome.proven_s, 50) == 0.2
