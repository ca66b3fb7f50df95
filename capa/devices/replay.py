"""A transcript played back to the driver that it was recorded with, or that it should work with.

Whatever differs is an error: a request that is not the recorded one, a reading that is another
value, and also a line that the driver never came to.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import trio

from capa.devices.adapter import AdapterFamily, DeviceAdapter, Reading
from capa.devices.link import Connector
from capa.devices.registry import LinkClass
from capa.devices.spec import LinkSpec
from capa.devices.transcript import ASKED, HEARD, MADE, RAISED, SENT, Entry, Transcript
from capa.errors import CapaError

__all__ = ["DidOp", "ReplayError", "made_of", "perform", "replay"]

SAME = 1e-6
"""Relative; readings are written with nine digits."""


class ReplayError(CapaError):
    """The driver did not do what the transcript says; the message says where."""


@dataclass
class _Script:
    """The lines that passed on the wire, taken one by one."""

    lines: list[Entry]
    at: int = 0
    faults: list[str] = field(default_factory=list)

    def take(self, mark: str) -> Entry | None:
        if self.at < len(self.lines) and self.lines[self.at].mark == mark:
            self.at += 1
            return self.lines[self.at - 1]
        return None

    @property
    def next_line(self) -> str:
        return str(self.lines[self.at]) if self.at < len(self.lines) else "nothing more"


class _ReplayStream(trio.abc.Stream):
    """Answers each request with what was recorded after it, as late as it was then."""

    def __init__(self, script: _Script) -> None:
        self._script = script
        self._due: list[tuple[float, bytes]] = []
        self._stirred = trio.Event()
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Compare a request with the recorded one and line up its reply."""
        await trio.lowlevel.checkpoint()
        script, now_s = self._script, trio.current_time()
        line = script.next_line
        wanted = script.take(SENT)
        if wanted is None or wanted.data != bytes(data):
            sent = Entry(0.0, SENT, data=bytes(data))
            script.faults.append(f"the driver sent {str(sent)[7:]}; the transcript has: {line}")
            return
        while (heard := script.take(HEARD)) is not None:
            self._due.append((now_s + heard.at_s - wanted.at_s, heard.data))
        self._stirred.set()

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the next recorded chunk at its time."""
        del max_bytes  # chunks are short
        while not self._closed:
            if self._due:
                at_s, data = self._due[0]
                await trio.sleep_until(at_s)
                del self._due[0]
                return data
            self._stirred = trio.Event()
            await self._stirred.wait()
        raise trio.ClosedResourceError("the replay has ended")

    async def aclose(self) -> None:
        """End."""
        self._closed = True
        self._stirred.set()
        await trio.lowlevel.checkpoint()


@dataclass(frozen=True, slots=True)
class DidOp:
    """What a driver made of one request to it: readings as lines, or the error's name."""

    made: tuple[str, ...] = ()
    raised: str = ""
    why: str = ""
    """What the error said; not in a transcript, as it names this rig's ports."""

    def entries(self, at_s: float) -> Iterator[Entry]:
        """Return the lines of a transcript."""
        yield from (Entry(at_s, MADE, text) for text in self.made)
        if self.raised:
            yield Entry(at_s, RAISED, self.raised)


def made_of(reading: Reading) -> str:
    """Write a reading as a transcript has it."""
    return f"{reading.field} {reading.value:.9g} {reading.status.value}"


async def perform(adapter: DeviceAdapter, op: str) -> DidOp:
    """Have a driver do what ``op`` says: ``open`` or ``poll``; never a write.

    Raises:
        CapaError: there is no such operation.
    """
    if op not in {"open", "poll"}:
        raise ReplayError(f"a transcript asks for open or poll, not {op!r}")
    try:
        if op == "poll":
            return DidOp(tuple(map(made_of, await adapter.poll())))
        identity = await adapter.open()
    except CapaError as error:
        return DidOp(raised=type(error).__name__, why=str(error))
    about = (identity.model, identity.serial, identity.firmware)
    return DidOp((f"identity {' '.join(map(json.dumps, about))}",))


async def replay(
    transcript: Transcript,
    family: AdapterFamily,
    link_class: LinkClass,
    *,
    on_op: Callable[[str, DidOp], None] = lambda _op, _did: None,
) -> None:
    """Play a transcript to a new driver and check everything that it does.

    Takes as long as the recording did, on trio's clock: give ``trio.run`` a ``MockClock``.

    Raises:
        ReplayError: every difference, one a line.
    """
    wire = [entry for entry in transcript.entries if entry.mark in {SENT, HEARD}]
    script = _Script(wire)
    async with trio.open_nursery() as nursery:
        link = link_class(transcript.link, _connector(script))
        await nursery.start(link.run)
        adapter = family.create(transcript.device, link)
        for op, wanted in _operations(transcript.entries):
            did = await perform(adapter, op)
            on_op(op, did)
            script.faults += _differences(op, wanted, did)
            if script.faults:
                break
        nursery.cancel_scope.cancel()
    if not script.faults and script.at < len(script.lines):
        left = len(script.lines) - script.at
        script.faults.append(f"{left} lines were never come to, from: {script.next_line}")
    if script.faults:
        raise ReplayError("\n".join(script.faults))


def _connector(script: _Script) -> Connector:
    async def connect(_spec: LinkSpec) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return _ReplayStream(script)

    return connect


def _operations(entries: tuple[Entry, ...]) -> Iterator[tuple[str, list[Entry]]]:
    """Yield what the driver was asked, and what it made of it then."""
    op, wanted = "", list[Entry]()
    for entry in entries:
        if entry.mark == ASKED:
            if op:
                yield op, wanted
            op, wanted = entry.text, []
        elif entry.mark in {MADE, RAISED}:
            wanted.append(entry)
    if op:
        yield op, wanted


def _differences(op: str, wanted: list[Entry], did: DidOp) -> Iterator[str]:
    raised = next((entry.text for entry in wanted if entry.mark == RAISED), "")
    if raised != did.raised:
        yield f"{op}: raised {did.raised or 'nothing'}, recorded: {raised or 'nothing'}"
        return
    recorded = [entry.text for entry in wanted if entry.mark == MADE]
    if len(recorded) != len(did.made):
        yield f"{op}: {len(did.made)} readings, recorded: {len(recorded)}"
    for then, now in zip(recorded, did.made, strict=False):
        if not _alike(then, now):
            yield f"{op}: read {now}, recorded: {then}"


def _alike(then: str, now: str) -> bool:
    if then == now:
        return True
    a, b = then.split(" "), now.split(" ")
    if len(a) != 3 or len(b) != 3 or (a[0], a[2]) != (b[0], b[2]):
        return False
    try:
        return math.isclose(float(a[1]), float(b[1]), rel_tol=SAME, abs_tol=SAME)
    except ValueError:
        return False
