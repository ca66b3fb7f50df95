"""What somebody at a terminal reads of a run: each step as it begins, and where it is now."""

import time
from collections.abc import Callable, Mapping
from typing import TextIO

from capa.runtime.progress import RunProgress
from capa.runtime.report import RunReport
from capa.runtime.safe_state import ChannelVerdict

__all__ = ["RunConsole", "verdict_lines"]

_EVERY_S = 5.0
_CLEAR = "\r\x1b[K"


class RunConsole:
    """Lines on a stream, and on a terminal one line that is written over.

    Args:
        out: where to, or None for nowhere.
        clock: seconds, for how often a step's progress is repeated.
    """

    def __init__(self, out: TextIO | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._in_place = out is not None and out.isatty()
        self._step: tuple[str, str, int] | None = None
        self._said_at_s = float("-inf")
        self._waiting = ""
        self._run_id = ""

    @property
    def is_silent(self) -> bool:
        """Whether nobody reads it."""
        return self._out is None

    def say(self, text: str) -> None:
        """Write a line; a reader that went away is no reason to stop."""
        self._write(f"{_CLEAR if self._in_place else ''}{text}\n")

    def waiting(self, text: str) -> None:
        """Say what is waited for, once."""
        if text != self._waiting:
            self._waiting = text
            self.say(text)

    def progress(self, progress: RunProgress) -> None:
        """Say where the run is: at each new step, and now and then."""
        step = (progress.run_id, progress.within or progress.status, progress.step)
        now_s = self._clock()
        if self._run_id != progress.run_id:
            self._run_id = progress.run_id
            self.say(f"  run {progress.run_id}; abort it with Ctrl-C (SIGINT)")
        if progress.ending:
            if self._in_place:
                self._write(f"{_CLEAR}  {progress.describe()}")
            return
        if not progress.step and (progress.method or progress.within or self._has_walked(progress)):
            return
        if step != self._step:
            self._step, self._said_at_s = step, now_s
            self.say(f"  {progress.describe()}")
        elif self._in_place:
            self._write(f"{_CLEAR}  {progress.describe()}")
        elif now_s - self._said_at_s >= _EVERY_S:
            self._said_at_s = now_s
            self.say(f"  {progress.describe()}")

    def _has_walked(self, progress: RunProgress) -> bool:
        """Whether steps of this run were shown: then what has no step and no status is its end."""
        walked = self._step is not None and self._step[0] == progress.run_id and self._step[2] > 0
        return walked and not progress.status

    def how_it_ended(self, run: RunReport) -> None:
        """Say how the rig was left, and where everything is."""
        self._step, self._waiting = None, ""
        for line in verdict_lines(run.verdicts):
            self.say(f"  safe state: {line}")
        if run.bundle is not None:
            self.say(f"  bundle: {run.bundle}")

    def _write(self, text: str) -> None:
        if self._out is None:
            return
        try:
            self._out.write(text)
            self._out.flush()
        except (OSError, ValueError):
            self._out = None


def verdict_lines(verdicts: Mapping[str, ChannelVerdict]) -> list[str]:
    """Return one line per output: where it was left, and whether that is proven."""
    return [
        f"{name} = {verdict.value:g}: {verdict.verdict}, {verdict.detail}"
        for name, verdict in verdicts.items()
    ]
