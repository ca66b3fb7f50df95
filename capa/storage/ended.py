"""How a run was left, as far as anybody wrote it down: the daemon, or the guardian after it."""

from typing import Any, NamedTuple

from capa.storage.manifest import Manifest

__all__ = ["Left", "left_as", "outcome_of", "unknown_end"]


class Left(NamedTuple):
    """An output, as it was left, and by whom that is known."""

    channel: str
    value: float | None
    verdict: str
    readback: float | None
    detail: str
    by: str


def left_as(manifest: Manifest) -> list[Left]:
    """Return how each output was left; the guardian's word comes after the daemon's."""
    found = [
        Left(name, it.value, it.verdict, it.readback, it.detail, "capad")
        for name, it in manifest.verdicts.items()
    ]
    told = (manifest.guard or {}).get("verdicts")
    for name, it in told.items() if isinstance(told, dict) else ():
        if isinstance(it, dict):
            value, readback = _number(it.get("value")), _number(it.get("readback"))
            words = (str(it.get("verdict", "")), readback, str(it.get("detail", "")))
            found.append(Left(str(name), value, *words, "capad-guard"))
    return found


def unknown_end(manifest: Manifest) -> str | None:
    """Say that it is not known how a run was left; None where it is, or where it goes on."""
    if manifest.run_status == "running" or left_as(manifest):
        return None
    return "not recorded: how the rig was left is in the log of the daemon's next start"


def outcome_of(step: dict[str, Any], manifest: Manifest) -> str:
    """Return what became of a step; one that was going on when the recording ended was cut off."""
    outcome = str(step.get("outcome") or "")
    return "interrupted" if outcome == "running" and manifest.run_status != "running" else outcome


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
