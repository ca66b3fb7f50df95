"""``capa devices talk``, ``record`` and ``replay``: the bytes between a driver and its device."""

import math
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import trio

from capa.cli.devices_rig import Bench
from capa.devices.registry import load_families, load_link_class
from capa.devices.replay import DidOp, perform, replay
from capa.devices.session import OpenDevice
from capa.devices.tap import DescribesFrames, Passed, written_out
from capa.devices.transcript import ASKED, HEARD, SENT, Entry, Transcript
from capa.errors import CapaError

__all__ = ["record_device", "replay_transcript", "talk_to_device"]

UP_S = 5.0


async def talk_to_device(
    bench: Bench, name: str, *, polls: float, say: Callable[[str], None]
) -> bool:
    """Have the driver open and poll one device, and say every frame as it passes, in words too.

    Returns whether everything that it did went well.
    """
    conversation = _Conversation(bench, name, say)
    async with bench.devices([name], conversation.heard) as devices:
        device = devices[name]
        conversation.begin()
        good = True
        async for op, did in _operations(device, polls):
            if did is None:
                say(f"        {op}")
                continue
            for line in did.made:
                say(f"        = {line}")
            if did.raised:
                say(f"        ! {did.raised}: {did.why}")
                good = False
        return good


@dataclass
class _Conversation:
    bench: Bench
    name: str
    say: Callable[[str], None]
    begun_s: float = 0.0

    def __post_init__(self) -> None:
        self.spec = self.bench.device(self.name)
        self.family = self.bench.parts.families[self.spec.adapter]

    def begin(self) -> None:
        self.begun_s = trio.current_time()

    def heard(self, _link: str, passed: Passed) -> None:
        arrow = ">" if passed.sent else "<"
        words = ""
        if isinstance(self.family, DescribesFrames):
            words = self.family.describe(self.spec, passed.data, sent=passed.sent)
        at_s = passed.at_s - self.begun_s
        line = f"{at_s:7.3f} {arrow} {written_out(passed.data)}"
        self.say(f"{line}    {words}" if words else line)


async def _operations(device: OpenDevice, polls: float) -> AsyncIterator[tuple[str, DidOp | None]]:
    """Do ``open`` and then polls at the profile's rate; yield before and after each."""
    await _until_up(device)
    due_s, done = trio.current_time(), -1.0
    while done < polls:
        op = "open" if done < 0 else "poll"
        yield op, None
        yield op, await perform(device.adapter, op)
        done += 1
        due_s = max(due_s + 1 / device.spec.poll_hz, trio.current_time())
        if done < polls:
            await trio.sleep_until(due_s)


async def _until_up(device: OpenDevice) -> None:
    with trio.move_on_after(UP_S):
        while not device.link.is_up:  # noqa: ASYNC110 - a link class need not offer an event
            await trio.sleep(0.02)
    if not device.link.is_up:
        raise CapaError(getattr(device.link, "why_down", "") or f"{device.link.name} is down")


@dataclass
class _Recorder:
    """Collects the lines of a transcript."""

    begun_s: float = math.nan
    entries: list[Entry] = field(default_factory=list)
    whole: int = 0
    """So many entries end with what the driver made of what it was asked."""

    def heard(self, _link: str, passed: Passed) -> None:
        mark = SENT if passed.sent else HEARD
        self.entries.append(Entry(self._since(passed.at_s), mark, data=passed.data))

    def asked(self, op: str) -> None:
        self.entries.append(Entry(self._since(trio.current_time()), ASKED, op))

    def did(self, did: DidOp) -> None:
        self.entries.extend(did.entries(self._since(trio.current_time())))
        self.whole = len(self.entries)

    def _since(self, at_s: float) -> float:
        if math.isnan(self.begun_s):
            self.begun_s = at_s
        return at_s - self.begun_s


async def record_device(
    bench: Bench, name: str, *, polls: int, keep: Callable[[Transcript], None]
) -> None:
    """Open and poll one device, and keep every byte that passed.

    However it ends, ``keep`` is given what the driver has come to the end of, if that is anything.
    """
    recorder = _Recorder()
    async with bench.devices([name], recorder.heard) as devices:
        device = devices[name]
        notes = {
            "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
            "profile": bench.profile.name,
        }
        link = device.link_spec.model_copy(update={"port": "replay"})
        try:
            async for op, did in _operations(device, polls):
                if did is None:
                    recorder.asked(op)
                else:
                    recorder.did(did)
        finally:
            if entries := tuple(recorder.entries[: recorder.whole]):
                keep(Transcript(link, device.spec, bench.source, entries, notes))


async def replay_transcript(transcript: Transcript, *, say: Callable[[str], None]) -> None:
    """Play a transcript to today's driver; say what it makes of it.

    Raises:
        ReplayError: what differs.
        CapaError: the family is not installed.
    """
    name = transcript.device.adapter
    families = load_families({name})
    if name not in families:
        raise CapaError(f"the transcript needs the adapter {name!r}, which is not installed")

    def tell(op: str, did: DidOp) -> None:
        for line in _said(op, did):
            say(line)

    await replay(transcript, families[name], load_link_class(), on_op=tell)


def _said(op: str, did: DidOp) -> Iterator[str]:
    yield f"{op}: {', '.join(did.made) or did.raised or 'nothing'}"
