"""The status line, the reports and the heartbeats say what is, in an operator's words."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from capa.config.problems import Problem
from capa.runtime.progress import RunProgress
from capa.runtime.report import Outcome, RunReport
from capa.runtime.safe_state import ChannelVerdict, Verdict
from capad.heartbeats import Heartbeat, Heartbeats
from capad.jobs import Job, JobState
from capad.reports import interrupted, of_run, rejection
from capad.status import SafeRecord, Snapshot, status_line

AT = datetime(2026, 11, 20, 14, 2, tzinfo=UTC)
JOB = Job("000001-x", "pmma.method.toml", "pmma.method.toml", "alice", 1971, JobState.ACTIVE)


def verdict(kind: Verdict, channel: str = "heater.setpoint") -> ChannelVerdict:
    return ChannelVerdict(channel, 20.0, kind, 20.0, "read back 20", 1.0)


def run_report(
    status: Outcome, *, sealed: str = "sealed", kind: Verdict = Verdict.PROVEN
) -> RunReport:
    return RunReport(
        run_id="20261120-131500-7f3a",
        run_status=status,
        bundle_status=sealed,
        exit_reason="because",
        started_utc=AT,
        ended_utc=AT,
        verdicts={"heater.setpoint": verdict(kind)},
    )


def test_a_running_box_says_where_it_is_and_how_long_it_takes() -> None:
    progress = RunProgress(
        "20261120-131500-7f3a",
        "pmma",
        3,
        7,
        "ramp",
        "heater.setpoint",
        "degC",
        412.5,
        600.0,
        "",
        720,
    )
    line = status_line(
        Snapshot(
            "RUN",
            progress=progress,
            queue=2,
            safe=SafeRecord({"heater.setpoint": verdict(Verdict.PROVEN)}, AT),
        )
    )
    assert line == (
        "RUN 20261120-131500-7f3a step 3/7 ramp heater.setpoint 412.5 -> 600 degC, 12 min left; "
        "queue 2; last safe: proven 14:02"
    )


def test_a_held_queue_says_why_and_how_to_release_it() -> None:
    line = status_line(Snapshot("IDLE", held="run aborted", hold_file="/s/hold", queue=1))
    assert line.startswith("HELD run aborted; to release: rm '/s/hold'; queue 1")


def test_what_stands_in_the_way_is_in_the_line() -> None:
    line = status_line(Snapshot("IDLE", "waiting", silent=("furnace",), trouble="disk full"))
    assert "no answer from furnace" in line
    assert "TROUBLE: disk full" in line


def test_what_keeps_the_spool_from_working_comes_before_alarms_which_may_be_cut_off() -> None:
    line = status_line(Snapshot("IDLE", trouble="disk full", alarms=("hot", "cold"), cooling="x"))
    assert line.index("TROUBLE: disk full") < line.index("ALARM") < line.index("cooling")


def test_an_output_that_the_guardian_cannot_reach_is_in_the_line_for_good() -> None:
    line = status_line(Snapshot("IDLE", unguarded=("purge.flow",)))
    assert "capad-guard can't reach purge.flow" in line


def test_an_output_that_is_not_known_to_be_safe_is_named() -> None:
    verdicts = {
        "heater.setpoint": verdict(Verdict.UNREACHABLE),
        "purge.flow": verdict(Verdict.PROVEN, "purge.flow"),
    }
    line = status_line(Snapshot("IDLE", safe=SafeRecord(verdicts, AT)))
    assert line.endswith("last safe: unreachable heater.setpoint 14:02")


@pytest.mark.parametrize(
    ("run", "state", "holds"),
    [
        (run_report("completed"), JobState.DONE, False),
        (run_report("completed", sealed="verification_failed"), JobState.FAILED, False),
        (run_report("completed", kind=Verdict.UNREACHABLE), JobState.DONE, True),
        (run_report("aborted"), JobState.FAILED, True),
        (run_report("crashed"), JobState.FAILED, True),
        (run_report("refused"), JobState.REJECTED, False),
    ],
)
def test_only_a_completed_and_sealed_run_is_done_and_only_a_good_end_lets_the_next_one_start(
    run: RunReport, state: JobState, holds: bool
) -> None:
    report = of_run(JOB, run)
    assert report.outcome is state
    assert report.holds is holds


def test_a_report_says_the_same_to_programs_and_to_people() -> None:
    problem = Problem(
        "method.unknown_field", "unknown field", file="a.toml", line=3, hint="drop it"
    )
    report = rejection(JOB, [problem])
    assert "a.toml:3" in report.as_text()
    data = json.loads(report.as_json())
    assert data["problems"][0]["line"] == 3
    assert data["outcome"] == "rejected"


def test_what_did_not_stand_in_the_way_is_told_apart_from_what_did() -> None:
    wrong = Problem("method.limit", "2000 degC is above the limit")
    odd = Problem("method.unknown_channel", "no channel is called nope", blocking=False)
    text = rejection(JOB, [wrong, odd]).as_text()
    assert "rejected: 1 problem;" in text
    assert "\n  2000 degC is above" in text
    assert "\n  warning: no channel is called nope" in text


def test_an_interrupted_job_is_not_promised_to_run_again() -> None:
    report = interrupted(JOB, "it had not begun to record")
    assert report.outcome is JobState.FAILED
    assert report.holds
    assert "not run again by itself" in report.as_text()


def test_a_loop_that_is_overdue_is_named_with_its_age() -> None:
    heartbeats = Heartbeats()
    beats = {"poll:furnace": Heartbeat(0.0, 3.0), "recorder": Heartbeat(9.0, 3.0)}
    source = lambda: beats  # noqa: E731 - the same object is unwatched below
    heartbeats.watch(source)
    assert heartbeats.stale(10.0) == {"poll:furnace": 10.0}
    assert heartbeats.stale(2.0) == {}
    heartbeats.unwatch(source)
    assert heartbeats.stale(100.0) == {}


def test_the_report_of_a_tripped_run_says_so_and_how_to_clear_it() -> None:
    run = replace(run_report("aborted"), trip="heater.pv = 501 degC: alarm at > 500")
    text = of_run(JOB, run).as_text()
    assert "TRIPPED: heater.pv = 501 degC: alarm at > 500" in text
    assert "capa safety clear --by NAME --reason TEXT" in text
    assert "TRIPPED" not in of_run(JOB, run_report("aborted")).as_text()
