"""What a tune leaves behind: a dated TOML file with the setpoint found for each target."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import trio

from capa.storage.atomic import write_atomically

__all__ = ["Artifact", "TargetResult", "TargetStatus", "artifact_path", "save"]

TargetStatus = Literal["not_started", "running", "converged", "accepted", "not_converged"]


@dataclass(slots=True)
class TargetResult:
    """One target, and how far the tune got with it; the last setpoint that was measured."""

    target_kw_m2: float
    status: TargetStatus = "not_started"
    reason: str = ""
    """Which budget or bound ended it: ``iterations``, ``settle``, ``session``, ``bound``; or
    ``ended`` when the run did."""
    detail: str = ""
    setpoint_c: float | None = None
    flux_kw_m2: float | None = None
    noise_kw_m2: float | None = None
    slope_kw_m2_per_min: float | None = None
    heater_pv_c: float | None = None
    iterations: int = 0
    ended_utc: datetime | None = None

    @property
    def reached(self) -> bool:
        """Whether there is a setpoint to use."""
        return self.status in {"converged", "accepted"}

    def table(self) -> dict[str, Any]:
        """Return it for TOML, which has no null."""
        facts = ((name, getattr(self, name)) for name in self.__slots__)
        return {name: value for name, value in facts if value is not None and value != ""}


@dataclass(slots=True)
class Artifact:
    """One tune, as written to its file."""

    begun_utc: datetime
    run_id: str | None
    operator: str
    channels: dict[str, str]
    results: list[TargetResult]
    status: Literal["running", "completed", "incomplete", "aborted", "crashed"] = "running"
    detail: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    def table(self) -> dict[str, Any]:
        """Return it for TOML."""
        head: dict[str, Any] = {
            "kind": "heat_flux_tune",
            "version": 1,
            "status": self.status,
            "begun_utc": self.begun_utc,
            "operator": self.operator,
        }
        if self.run_id is not None:
            head["run_id"] = self.run_id
        if self.detail:
            head["detail"] = self.detail
        targets = [result.table() for result in self.results]
        return {**head, "channels": self.channels, "targets": targets, "config": self.config}


def artifact_path(folder: Path, begun_utc: datetime, run_id: str | None) -> Path:
    """Return the file's name: dated, and the run's where that is known."""
    return folder / f"heat_flux_tune-{run_id or begun_utc.strftime('%Y%m%d-%H%M%S')}.toml"


async def save(artifact: Artifact, path: Path) -> None:
    """Write it in a thread: the whole file or the one before it.

    Cancelled, it leaves the thread behind with what it had to write.

    Raises:
        OSError: as the file system says.
    """
    await trio.to_thread.run_sync(_write, path, artifact.table(), abandon_on_cancel=True)


def _write(path: Path, table: dict[str, Any]) -> None:
    import tomli_w

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, tomli_w.dumps(table).encode())
