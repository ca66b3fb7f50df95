"""What is still due of the safe state, kept on disk, so that a restart goes on with it.

The file is there exactly while a later stage is waited for. It is removed, durably, before a run
is armed, whether by the daemon or by ``capa run``: who comes after a program that was killed in the
middle of that run must not take the waiting that came before it for waiting that came after. A
file that is missing, or can't be read, or is of another safe state, means that the wait begins
anew, which only keeps the purge on for longer.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from capa.config.hardware import SafeStage
from capa.runtime.moments import Moment
from capa.storage.atomic import fsync_dir, write_for_folder

__all__ = ["STAGES_FILE", "Pending", "StageStore", "fingerprint"]

STAGES_FILE = "safe_stages.json"
_VERSION = 1
_STRANGE = (OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Pending:
    """The stage that is waited for (counted from 0, so at least 1), and since when."""

    stage: int
    since: Moment
    after: str = ""
    """The run after which it is due; empty after a start, or a trip with nothing running."""


def fingerprint(stages: Sequence[SafeStage]) -> str:
    """Return what tells one safe state from another."""
    text = json.dumps([stage.model_dump(mode="json") for stage in stages], sort_keys=True)
    return sha256(text.encode()).hexdigest()[:16]


class StageStore:
    """One small file; every method blocks.

    Args:
        file: in a folder that survives a reboot.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def load(self, stages: Sequence[SafeStage]) -> tuple[Pending | None, str]:
        """Return what was due of this safe state, and what is to be said about it, if anything."""
        try:
            data = json.loads(self.file.read_bytes())
            if data["of"] != fingerprint(stages):
                return None, f"{self.file} is of another safe state; the waiting begins anew"
            return _pending(data, len(stages)), ""
        except FileNotFoundError:
            return None, ""
        except (OSError, ValueError, LookupError, TypeError, *_STRANGE) as error:
            return None, f"{self.file} can't be read ({error}); the waiting begins anew"

    def save(self, pending: Pending | None, stages: Sequence[SafeStage]) -> None:
        """Have the file say what is due; durable when this returns.

        Raises:
            OSError: as the file system says.
        """
        if pending is None:
            self._remove()
            return
        since = pending.since
        data = {
            "version": _VERSION,
            "of": fingerprint(stages),
            "stage": pending.stage,
            "since": {
                "utc": since.utc.isoformat(),
                "boot": since.boot,
                "boot_s": since.boot_s,
            },
            "after": pending.after,
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(data, indent=2) + "\n"
        write_for_folder(self.file, text.encode())

    def _remove(self) -> None:
        try:
            self.file.unlink()
        except FileNotFoundError:
            return
        fsync_dir(self.file.parent)


def _pending(data: dict[str, Any], stages: int) -> Pending:
    """Read the file's content.

    Raises:
        ValueError, KeyError, TypeError: it is not what ``save`` writes.
    """
    stage, since = int(data["stage"]), data["since"]
    utc = datetime.fromisoformat(since["utc"])
    if not 0 < stage < stages or utc.tzinfo is None:
        raise ValueError(f"stage {stage} since {since['utc']!r}")
    moment = Moment(utc, str(since["boot"]), float(since["boot_s"]))
    return Pending(stage, moment, str(data["after"]))
