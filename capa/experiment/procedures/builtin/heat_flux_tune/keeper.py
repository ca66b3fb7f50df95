"""Keeps what a tune finds: events in the bundle, the artifact in its file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import trio

from capa.experiment.procedures.base import ProcedureContext
from capa.experiment.procedures.builtin.heat_flux_tune.artifact import (
    Artifact,
    artifact_path,
    save,
)

__all__ = ["Keeper"]

SAVE_BUDGET_S = 5.0
"""A disk that hangs must keep neither the tune from its guard nor the rig from its safe state."""

_FOLDER = "tunes"
Severity = Literal["info", "warning", "error"]


class Keeper:
    """The paper-work of one tune. ``failed`` says why the last write failed; empty if it did not.

    A relative folder is taken from the one that holds the runs, so that the daemon can write it
    whatever its working directory is.
    """

    def __init__(
        self, ctx: ProcedureContext, folder: Path | None, *, run_id: str | None, source: str
    ) -> None:
        self._ctx = ctx
        self._source = source
        bundle = getattr(ctx.bundle_writer, "path", None)
        base = bundle.parent.parent if isinstance(bundle, Path) else Path()
        self.path = artifact_path(base / (folder or _FOLDER), ctx.clock.t_utc(), run_id)
        self.failed = ""

    async def keep(self, artifact: Artifact) -> None:
        """Write the artifact as it stands; a write that fails is told, and tried again later."""
        self.failed = await self._saved(artifact)
        if self.failed:
            self.event("artifact", self.failed, severity="error")
            return
        done = sum(result.reached for result in artifact.results)
        self.event(
            "artifact",
            f"{done} of {len(artifact.results)} targets in {self.path}",
            metadata={"path": str(self.path), "status": artifact.status},
        )

    async def _saved(self, artifact: Artifact) -> str:
        """Return why the file could not be written; empty when it was."""
        with trio.move_on_after(SAVE_BUDGET_S):
            try:
                await save(artifact, self.path)
            except OSError as error:
                return f"{self.path} could not be written: {error}"
            return ""
        return f"{self.path} was not written within {SAVE_BUDGET_S:g} s: the disk does not answer"

    def event(
        self,
        kind: str,
        message: str,
        *,
        severity: Severity = "info",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write an event ``heat_flux_tune.<kind>``."""
        clock = self._ctx.clock
        t_mono_ns = clock.t_mono_ns()
        self._ctx.bundle_writer.write_event(
            kind=f"heat_flux_tune.{kind}",
            message=message,
            severity=severity,
            source=self._source,
            t_mono_ns=t_mono_ns,
            t_utc=clock.utc_at(t_mono_ns),
            metadata=metadata,
        )
