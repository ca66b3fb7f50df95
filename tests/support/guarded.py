"""A twin, the safe plan of its profile, and the guardian as a process of its own."""

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.safe_plans import WHEN, plan_of_twin
from tests.support.twin_process import TwinProcess

__all__ = ["DEADLINE_S", "GUARD", "Guarded", "run_guard"]

GUARD = Path(__file__).parents[2] / "capad" / "guard.py"
DEADLINE_S = 2.0


def run_guard(folder: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-I", "-S", str(GUARD), "--runtime-dir", str(folder), *flags],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )


class Guarded:
    """The guardian's way to a twin that it can be judged by."""

    def __init__(self, twin: TwinProcess, folder: Path) -> None:
        self.twin = twin
        self.folder = folder
        self.plan()

    def plan(self, deadline_s: float = DEADLINE_S, written_utc: datetime = WHEN) -> None:
        """Write the plan, as the daemon does whenever it takes the rig."""
        plan_of_twin(self.twin.directory, deadline_s=deadline_s, written_utc=written_utc).write(
            self.folder
        )

    def run(self, *flags: str) -> "subprocess.CompletedProcess[str]":
        return run_guard(self.folder, *flags)

    def verdicts(self) -> dict[str, Any]:
        found: dict[str, Any] = self.record()["verdicts"]
        return found

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "guard_verdicts.json").read_text())
        return found

    def words(self) -> dict[str, str]:
        return {name: verdict["verdict"] for name, verdict in self.verdicts().items()}

    def fault(self, kind: str, **how: object) -> None:
        assert self.twin.ask(fault=kind, **how)["ok"]

    def output(self, device: str, field: str) -> float:
        return float(self.twin.ask(outputs=True)["outputs"][f"{device}.{field}"])
