"""What became of the outputs, by the twin's wire log alone; the daemon's word counts for nothing.

An output is *safe* from the moment at which the instrument drives its safe value and keeps to it,
and *proven* when the instrument has said so in answer to a read-back on the wire. Both are read
from ``wire.jsonl``: its ``output`` records are what the instrument does, its frames what was said.
Its clock is CLOCK_MONOTONIC, which all name spaces of a machine share.
"""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from capa.config.hardware import HardwareProfile
from capa.devices.registry import load_families
from capa.runtime.safe_plan import compile_safe_plan
from capad.guard import number_in, reply_in

__all__ = ["Output", "OutputVerdict", "WireLog", "judge", "outputs_of"]

Record = Mapping[str, Any]
TOLERANCE = 0.1
"""In the field's own unit: a safe value that was rounded by the wire is the safe value."""
_WRITE_NS = 50_000_000
"""A write is logged when its bytes came, which is a moment before the output changes."""
_LONGEST = 256


@dataclass(frozen=True, slots=True)
class Output:
    """An output of stage one: where it is, what is safe, and the frames that say so."""

    channel: str
    device: str
    link: str
    value: float
    write: bytes
    ask: bytes
    read_back: Mapping[str, Any]

    def is_safe(self, value: float) -> bool:
        """Whether a value is the safe one."""
        return abs(value - self.value) <= TOLERANCE


@dataclass(frozen=True, slots=True)
class OutputVerdict:
    """One output after one blow; seconds count from the blow.

    ``safe_s`` is 0 where it stood at its safe value and stayed there, None where it is not safe
    at the end. ``trouble`` is empty unless the promise was broken.
    """

    channel: str
    was_unsafe: bool
    safe_s: float | None
    proven_s: float | None
    trouble: str


class WireLog:
    """Reads a wire log that is being written, each record once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._rest = b""
        self.records: list[Record] = []

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self) -> Sequence[Record]:
        """Take what has been written since; return all that is remembered."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        self.records += [json.loads(line) for line in lines]
        return self.records

    def forget(self) -> None:
        """Forget all but where each output stands."""
        last = {r["device"]: r for r in self.read() if r["event"] == "output"}
        self.records = sorted(last.values(), key=lambda record: int(record["t_ns"]))

    def stands_at(self, device: str) -> float:
        """Return what an output is at now."""
        return next(
            float(r["value"])
            for r in reversed(self.read())
            if r["event"] == "output" and r["device"] == device
        )


def outputs_of(profile: Path) -> tuple[Output, ...]:
    """Return the outputs of stage one, with their frames as the library makes them."""
    parsed = HardwareProfile.model_validate(tomllib.loads(profile.read_text()))
    families = load_families({device.adapter for device in parsed.devices})
    plan = compile_safe_plan(parsed, families, written_utc=datetime.now(UTC)).document
    return tuple(_output(write, link["name"]) for link in plan["links"] for write in link["writes"])


def _output(write: Mapping[str, Any], link: str) -> Output:
    return Output(
        write["channel"],
        write["device"],
        link,
        write["value"],
        bytes.fromhex(write["request"]),
        bytes.fromhex(write["read_back"]["request"]),
        write["read_back"],
    )


def judge(records: Sequence[Record], output: Output, blow_ns: int) -> OutputVerdict:
    """Say what became of an output from the blow until the end of the log."""
    changes = [r for r in records if r["event"] == "output" and r["device"] == output.device]
    before = [r for r in changes if r["t_ns"] <= blow_ns][-1]
    after = [r for r in changes if r["t_ns"] > blow_ns]
    was_unsafe = not output.is_safe(before["value"])
    spells = list(_safe_spells(output, [before, *after], blow_ns))
    touched = was_unsafe or len(spells) > 1
    trouble, safe_s, proven_s = "", None, None
    for since_ns, until_ns, lost in spells:
        written_ns = since_ns - _WRITE_NS if touched else blow_ns
        proof_ns = _proof_ns(records, output, written_ns, since_ns)
        if proof_ns is not None and until_ns is not None and proof_ns < until_ns:
            late_s = (until_ns - proof_ns) / 1e9
            trouble = f"{output.channel} went to {lost:g}, {late_s:.3f} s after it was proven safe"
        if until_ns is None:
            safe_s = (since_ns - blow_ns) / 1e9
            proven_s = None if proof_ns is None else (proof_ns - blow_ns) / 1e9
    if safe_s is None:
        trouble = f"{output.channel} stands at {changes[-1]['value']:g}, not {output.value:g}"
    return OutputVerdict(output.channel, was_unsafe, safe_s, proven_s, trouble)


def _safe_spells(
    output: Output, changes: Iterable[Record], blow_ns: int
) -> Iterator[tuple[int, int | None, float]]:
    """Yield from when until when the output was safe, and what it was then; None: to the end."""
    since_ns: int | None = None
    for change in changes:
        if output.is_safe(change["value"]):
            since_ns = max(change["t_ns"], blow_ns) if since_ns is None else since_ns
        elif since_ns is not None:
            yield since_ns, change["t_ns"], change["value"]
            since_ns = None
    if since_ns is not None:
        yield since_ns, None, output.value


def _proof_ns(records: Sequence[Record], output: Output, from_ns: int, safe_ns: int) -> int | None:
    """Return when the instrument said that it is safe, asked after a safe write of ``from_ns``."""
    heard, seen = b"", b""
    written = asked = False
    for record in records:
        if record["t_ns"] < from_ns or record["link"] != output.link:
            continue
        if record["event"] == "rx":
            heard = (heard + _data(record))[-_LONGEST:]
            if output.write in heard:
                written, heard = True, b""
            elif output.ask in heard and written and record["t_ns"] >= safe_ns:
                asked, heard, seen = True, b"", b""
        elif record["event"] == "tx" and asked:
            seen = (seen + _data(record))[-_LONGEST:]
            if _says_safe(output, seen):
                return int(record["t_ns"])
    return None


def _data(record: Record) -> bytes:
    return bytes.fromhex(record["hex"])


def _says_safe(output: Output, seen: bytes) -> bool:
    reply = reply_in(output.read_back["reply"], seen)
    if reply is None:
        return False
    value = number_in(output.read_back, reply)  # type: ignore[arg-type] # as above
    return value is not None and output.is_safe(value)
