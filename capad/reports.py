"""What is left beside a job that is over: ``report.json`` for programs, ``.txt`` for people."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from capa.clock import utc_now
from capa.config.problems import Problem
from capa.runtime.console import verdict_lines
from capa.runtime.ladder import Rung, ladder_lines
from capa.runtime.report import RunReport
from capa.runtime.safe_state import Verdict
from capad.jobs import Job, JobState, shown_name

__all__ = [
    "NOT_LAID_IN",
    "NO_WORD",
    "Report",
    "before_arming",
    "interrupted",
    "of_run",
    "rejection",
    "unread_word",
]


@dataclass(frozen=True, slots=True)
class Report:
    """The end of one job. ``summary`` is one line; ``run`` is None if nothing ran."""

    job: Job
    outcome: JobState
    summary: str
    problems: tuple[Problem, ...] = ()
    run: RunReport | None = None
    advice: tuple[str, ...] = ()
    ladder: tuple[Rung, ...] = ()
    """How an interrupted run ended, as far as it is known."""
    made_utc: datetime = field(default_factory=utc_now)

    @property
    def holds(self) -> bool:
        """Whether nothing more is to run before somebody has looked."""
        run = self.run
        if run is None:
            return self.outcome is JobState.FAILED
        unsafe = any(v.verdict is Verdict.UNREACHABLE for v in run.verdicts.values())
        return unsafe or run.run_status in ("aborted", "crashed")

    def as_json(self) -> str:
        """Return ``report.json``."""
        data: dict[str, Any] = {
            "version": 1,
            "job": self.job.id,
            "file": shown_name(self.job.name),
            "owner": self.job.owner,
            "seen_before": None if self.job.earlier is None else asdict(self.job.earlier),
            "outcome": self.outcome.value,
            "summary": self.summary,
            "made_utc": self.made_utc.isoformat(timespec="milliseconds"),
            "problems": [_problem(problem) for problem in self.problems],
            "run": None if self.run is None else _run(self.run),
            "ladder": [_rung(rung) for rung in self.ladder],
            "advice": list(self.advice),
        }
        return json.dumps(data, indent=2, default=str) + "\n"

    def problem_lines(self) -> list[str]:
        """Return one line per problem; what does not stand in the way says so."""
        return [f"{'' if one.blocking else 'warning: '}{one}" for one in self.problems]

    def as_text(self) -> str:
        """Return ``report.txt``."""
        lines = [
            f"{shown_name(self.job.name)}, dropped by {self.job.owner}: {self.outcome.upper()}",
            self.summary,
        ]
        if self.job.earlier is not None:
            lines += [str(self.job.earlier)]
        if self.problems:
            lines += ["", "Problems:", *(f"  {line}" for line in self.problem_lines())]
        if self.run is not None:
            lines += ["", *_run_lines(self.run)]
        if self.ladder:
            lines += ["", *_rest_lines(self.ladder)]
        if self.advice:
            lines += ["", *self.advice]
        lines += ["", f"Job {self.job.id}, reported {self.made_utc:%Y-%m-%d %H:%M:%S} UTC"]
        return "\n".join(lines) + "\n"


def rejection(job: Job, problems: Sequence[Problem]) -> Report:
    """Report a file that was not run."""
    count = sum(problem.blocking for problem in problems)
    words = "1 problem" if count == 1 else f"{count} problems"
    return Report(
        job,
        JobState.REJECTED,
        f"rejected: {words}; nothing was run",
        tuple(problems),
        advice=("Mend the file and drop it into incoming/ again.",),
    )


def of_run(job: Job, run: RunReport) -> Report:
    """Report a run, or the conductor's refusal to begin it."""
    if run.run_status == "refused":
        return Report(
            job, JobState.REJECTED, "refused before arming; nothing was run", run.problems, run
        )
    good = run.run_status == "completed" and run.bundle_status == "sealed"
    summary = f"{run.run_status}: {run.exit_reason}; bundle {run.bundle_status}"
    advice = [f"Bundle: {run.bundle}"]
    if run.bundle_status != "sealed":
        advice.append(f"It is not sealed: capa bundle finalize {run.bundle}")
    if run.run_status in ("aborted", "crashed"):
        advice.append("The queue is held: read why, then remove the file spool/hold.")
    state = JobState.DONE if good else JobState.FAILED
    return Report(job, state, summary, run.problems, run, tuple(advice))


def before_arming(job: Job, reason: str) -> Report:
    """Report a job that was stopped before anything was armed."""
    return Report(
        job,
        JobState.FAILED,
        f"{reason} before it was armed; nothing was run",
        advice=("Drop the file again if it should be run.",),
    )


_NOT_AGAIN = "It is not run again by itself: drop the file again if it should be."
_THIS_START = (
    "This start tried to drive every output to its safe value before anything else; how each one "
    "answered is in systemctl status capad and journalctl -u capad."
)
NO_WORD = (
    "capad-guard left no word after it: nobody proved the rig safe between the daemon's end and "
    f"this start. {_THIS_START}"
)
NOT_LAID_IN = "The record of capad-guard is not in the bundle; what it says stands above."


def unread_word(why: str) -> str:
    """Return what is to be said where the guardian left something that can't be read."""
    return (
        f"What capad-guard left can't be read ({why}): whether it made the rig safe between the "
        f"daemon's end and this start is not known. {_THIS_START}"
    )


def interrupted(job: Job, detail: str, ladder: tuple[Rung, ...] = (), *, guard: str = "") -> Report:
    """Report a job that was running when the daemon ended.

    ``guard`` says what is wrong with the guardian's word; empty where it is in the bundle.
    """
    return Report(
        job,
        JobState.FAILED,
        f"interrupted: the daemon ended while this ran; {detail}",
        advice=(guard, _NOT_AGAIN) if guard else (_NOT_AGAIN,),
        ladder=ladder,
    )


def _problem(problem: Problem) -> dict[str, Any]:
    return {**asdict(problem), "text": str(problem)}


def _run(run: RunReport) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "run_status": run.run_status,
        "bundle_status": run.bundle_status,
        "exit_reason": run.exit_reason,
        "bundle": None if run.bundle is None else str(run.bundle),
        "started_utc": run.started_utc.isoformat(timespec="milliseconds"),
        "ended_utc": run.ended_utc.isoformat(timespec="milliseconds"),
        "verdicts": {name: asdict(verdict) for name, verdict in run.verdicts.items()},
        "ladder": [_rung(rung) for rung in run.ladder],
        "later": list(run.later),
        "raised": list(run.raised),
        "trip": run.trip,
        "steps": [asdict(step) for step in run.steps],
    }


def _rest_lines(ladder: Sequence[Rung]) -> list[str]:
    return [
        "How it was brought to rest (UTC):",
        *(f"  {line}" for line in ladder_lines(ladder)),
    ]


def _rung(rung: Rung) -> dict[str, str]:
    return {"at_utc": rung.at_utc.isoformat(timespec="milliseconds"), "words": rung.words}


def _run_lines(run: RunReport) -> list[str]:
    took_s = (run.ended_utc - run.started_utc).total_seconds()
    lines = [
        f"Run {run.run_id or '(none)'}: {run.run_status}, {took_s:.1f} s",
        f"Why it ended: {run.exit_reason}",
    ]
    if run.ladder and run.run_status != "completed":
        lines += _rest_lines(run.ladder)
    if run.raised:
        lines += ["Raised by the safety monitor:", *(f"  {words}" for words in run.raised)]
    if run.trip:
        lines += [
            f"TRIPPED: {run.trip}",
            "  Nothing runs before: capa safety clear --by NAME --reason TEXT",
        ]
    if run.verdicts:
        lines += ["Safe state:", *(f"  {line}" for line in verdict_lines(run.verdicts))]
    if run.later:
        lines += ["Still to come when this was written:", *(f"  {line}" for line in run.later)]
    return lines
