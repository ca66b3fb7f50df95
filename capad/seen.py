"""Which job last had the same content: two equal files are two jobs, but one may wonder."""

import json
import os
from contextlib import suppress
from pathlib import Path

from capad.jobs import JOB_FILE, Earlier, Job, JobState, sequence_of

__all__ = ["MOST_REMEMBERED", "Seen"]

MOST_REMEMBERED = 5000
"""Jobs looked through after a start; reading one takes some 50 microseconds."""


class Seen:
    """The content of the jobs that the spool still holds, by hash. Blocks; call it in a thread.

    Read from the jobs themselves when it is first asked, so there is nothing to go out of step.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._latest: dict[str, tuple[int, Earlier]] | None = None

    def find(self, sha256: str | None) -> Earlier | None:
        """Return the last job of this content, if there was one."""
        if self._latest is None:
            self._latest = self._read()
        found = self._latest.get(sha256 or "")
        return None if found is None else found[1]

    def note(self, job: Job) -> None:
        """Remember a job that was just claimed."""
        if self._latest is not None and job.sha256 is not None and job.history:
            earlier = Earlier(job.id, job.history[0].at_utc)
            self._latest[job.sha256] = (sequence_of(job.id) or 0, earlier)

    def _read(self) -> dict[str, tuple[int, Earlier]]:
        folders = []
        for state in JobState:
            with suppress(FileNotFoundError), os.scandir(self._root / state) as entries:
                folders += [(sequence_of(e.name) or 0, Path(e.path)) for e in entries]
        folders.sort(key=lambda item: item[0])
        latest: dict[str, tuple[int, Earlier]] = {}
        for sequence, folder in folders[-MOST_REMEMBERED:]:
            with suppress(OSError, ValueError, KeyError, TypeError, IndexError):
                data = json.loads((folder / JOB_FILE).read_bytes())
                if isinstance(data["sha256"], str):
                    earlier = Earlier(data["id"], data["history"][0]["at_utc"])
                    latest[data["sha256"]] = (sequence, earlier)
        return latest
