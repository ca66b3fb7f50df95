"""The parts of a manifest: files, verdicts, quality, steps, the chain, the signer."""

from typing import Literal

from capa.models import Frozen

__all__ = [
    "ChainEntry",
    "ChannelQuality",
    "FileEntry",
    "HoldQuality",
    "RampQuality",
    "RecorderStats",
    "SignerEntry",
    "StepEntry",
    "VerdictEntry",
]


class FileEntry(Frozen):
    """One file of a sealed bundle; ``rows`` where it is a table."""

    sha256: str
    size: int
    rows: int | None = None


class VerdictEntry(Frozen):
    """How a channel was left at the end: its safe value, and whether that was proven."""

    value: float | None = None
    verdict: str
    readback: float | None = None
    detail: str = ""
    at_s: float | None = None
    channel: str | None = None


class ChannelQuality(Frozen):
    """What was recorded of one channel; see docs/bundle-format.md for what each counts."""

    samples: int
    unusable: int = 0
    expected: int | None = None
    gaps: int | None = None
    longest_gap_s: float | None = None
    stale_s: float | None = None
    first_ns: int | None = None
    last_ns: int | None = None


class HoldQuality(Frozen):
    """How well a value was held; None where there were no measurements."""

    channel: str
    value: float
    band: float | None = None
    samples: int = 0
    within_s: float | None = None
    within_fraction: float | None = None
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None


class RampQuality(Frozen):
    """How well a ramp was followed; None where there were no measurements."""

    channel: str
    asked_rate_per_s: float | None = None
    achieved_rate_per_s: float | None = None
    start_value: float | None = None
    end_value: float | None = None
    first: float | None = None
    last: float | None = None


class StepEntry(Frozen):
    """What became of one step; times in ns since arm."""

    index: int
    kind: str
    target: str | None = None
    entered_ns: int
    left_ns: int | None = None
    outcome: str = "running"
    segment: bool = False
    hold: HoldQuality | None = None
    ramp: RampQuality | None = None


class ChainEntry(Frozen):
    """The chain of the events at the seal: its length, its end, the ids where it was broken."""

    algorithm: Literal["sha256"] = "sha256"
    rows: int
    head: str
    breaks: tuple[int, ...] = ()


class SignerEntry(Frozen):
    """Whose key signs ``manifest.sha256``, as OpenSSH writes public keys."""

    public_key: str
    namespace: str


class RecorderStats(Frozen):
    """What the recorder took, and what it had to give up."""

    events: int = 0
    events_lost: int = 0
    samples: int = 0
    samples_dropped: int = 0
    samples_lost: int = 0
    records: int = 0
    records_dropped: int = 0
    records_lost: int = 0
    failures: int = 0
    last_failure: str | None = None
