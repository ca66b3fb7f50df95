"""Recorded conversations, played to today's drivers.

Those in tests/data/transcripts were recorded from the twins, and say so in their head: they keep
the drivers as they are, and prove nothing about an instrument.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from capa.devices.registry import load_families, load_link_class
from capa.devices.replay import ReplayError, replay
from capa.devices.spec import DeviceSpec, LinkSpec
from capa.devices.tap import written_out
from capa.devices.transcript import ASKED, HEARD, MADE, SENT, Entry, Transcript
from capa.errors import CapaError

SHIPPED = sorted((Path(__file__).parents[1] / "data" / "transcripts").glob("*.transcript"))


def shipped(name: str) -> Transcript:
    file = next(path for path in SHIPPED if path.name.startswith(name))
    return Transcript.parse(file.read_text(), file=file.name)


async def play(transcript: Transcript) -> None:
    name = transcript.device.adapter
    await replay(transcript, load_families({name})[name], load_link_class())


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.stem)
async def test_todays_driver_does_and_reads_what_was_recorded(
    file: Path, autojump_clock: MockClock
) -> None:
    transcript = shipped(file.name)
    assert transcript.source == "twin"
    await play(transcript)


async def test_a_line_that_is_never_come_to_is_an_error(autojump_clock: MockClock) -> None:
    recorded = shipped("purge")
    more = (Entry(9.0, SENT, data=b"A\r"), Entry(9.1, HEARD, data=b"A +014.70\r"))
    with pytest.raises(ReplayError, match=r'2 lines were never come to, from: .* > "A'):
        await play(replace(recorded, entries=recorded.entries + more))


async def test_a_request_that_is_not_the_recorded_one_is_an_error(
    autojump_clock: MockClock,
) -> None:
    recorded = shipped("purge")
    other = recorded.device.model_copy(update={"address": "B"})
    with pytest.raises(
        ReplayError, match=r'the driver sent > "B\\r"; the transcript has: .*"A\\r"'
    ):
        await play(replace(recorded, device=other))


async def test_a_reading_that_is_not_the_recorded_one_is_an_error(
    autojump_clock: MockClock,
) -> None:
    recorded = shipped("purge")
    lied = tuple(
        replace(entry, text="pressure 99 ok") if entry.text.startswith("pressure") else entry
        for entry in recorded.entries
    )
    with pytest.raises(ReplayError, match=r"read pressure 14\.7 ok, recorded: pressure 99 ok"):
        await play(replace(recorded, entries=lied))


async def test_a_device_that_was_silent_then_is_silent_again(autojump_clock: MockClock) -> None:
    recorded = shipped("balance")
    (request, *_) = (entry.data for entry in recorded.entries if entry.mark == SENT)
    silent = (
        Entry(0.0, ASKED, "open"),
        Entry(0.0, SENT, data=request),
        Entry(0.5, "!", "LinkTimeoutError"),
    )
    await play(replace(recorded, entries=silent))


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e4), st.sampled_from([SENT, HEARD]), st.binary(min_size=1, max_size=40)
        )
    )
)
def test_any_bytes_come_back_from_the_file_as_they_were(
    passed: list[tuple[float, str, bytes]],
) -> None:
    entries = tuple(Entry(round(at_s, 4), mark, data=data) for at_s, mark, data in passed)
    link, device = LinkSpec(name="l", port="p"), DeviceSpec(name="d", adapter="alicat", link="l")
    before = Transcript(link, device, "twin", (*entries, Entry(1.0, MADE, "flow 1 ok")))
    assert Transcript.parse(str(before)) == before


@given(st.text(max_size=300))
def test_any_text_is_a_transcript_or_an_error_that_names_the_file(text: str) -> None:
    with pytest.raises(CapaError, match=r"^notes\.txt"):
        Transcript.parse(text, file="notes.txt")


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"A\r\n", '"A\\r\\n"'), (b'say "x"\\', '"say \\"x\\"\\\\"'), (b"\x01\x03", "01 03")],
)
def test_text_is_written_as_text_and_everything_else_as_numbers(data: bytes, text: str) -> None:
    assert written_out(data) == text
