"""What somebody at a terminal reads; silent under a service manager, whose journal has the log."""

from capa.runtime.console import RunConsole
from capad.jobs import JobState, shown_name
from capad.reports import Report

__all__ = ["Console"]


class Console(RunConsole):
    """Adds what became of a job."""

    def report(self, report: Report) -> None:
        """Say how a job ended, how the rig was left, and where everything is."""
        name = shown_name(report.job.name)
        self.say(f"{name}: {report.outcome.upper()}")
        self.say(f"  {report.summary}")
        for line in report.problem_lines():
            self.say(f"  {line}")
        if report.run is not None:
            self.how_it_ended(report.run)
        if report.outcome is JobState.REJECTED:
            for line in report.advice:
                self.say(f"  {line}")
