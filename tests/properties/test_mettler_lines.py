"""What any bytes, flipped bits and other commands' answers make of the MT-SICS codec."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.mettler.codec import (
    Answer,
    GeneralError,
    SicsStatus,
    Weight,
    decode_reply,
    encode_answer,
    encode_weight,
)
from capa.devices.lines import LineReply
from capa.errors import FrameError

COMMANDS = ("S", "SI", "SIR", "SR", "T", "TI", "TA", "TAC", "Z", "ZI", "@", "I0", "I2")


@given(
    command=st.sampled_from(COMMANDS),
    line=st.one_of(st.binary(max_size=60), st.from_regex(r"(S|T|TA|ES) [SDI+\-A].*").map(
        lambda text: text.encode("utf-8", "replace"))),
)  # fmt: skip
def test_any_line_is_a_reply_or_a_frame_error(command: str, line: bytes) -> None:
    try:
        reply = decode_reply(command, line)
    except FrameError:
        return
    assert isinstance(reply, Answer | GeneralError)


@given(
    grams=st.floats(-999.0, 9999.0).map(lambda value: round(value, 5)),
    status=st.sampled_from([SicsStatus.STABLE, SicsStatus.DYNAMIC]),
    cuts=st.sets(st.integers(1, 17)),
)
def test_a_weight_survives_the_wire_chopped_anyhow(
    grams: float, status: SicsStatus, cuts: set[int]
) -> None:
    line = encode_answer("S", status, encode_weight(grams, "g", 4))
    reply = LineReply(b"\r\n", lambda text: decode_reply("SI", text))
    places = [0, *sorted(cut for cut in cuts if cut < len(line)), len(line)]
    replies = [reply.feed(line[a:b]) for a, b in itertools.pairwise(places)]
    assert replies[:-1] == [None] * (len(replies) - 1)
    last = replies[-1]
    assert isinstance(last, Answer)
    assert last.status is status
    assert isinstance(last.value, Weight)
    assert last.value.value == pytest.approx(grams, abs=5.1e-5)


@given(
    asked=st.sampled_from(["S", "SI", "I2", "TAC", "TA"]),
    answered=st.sampled_from(["T", "Z", "I4", "I3", "SIS"]),
    status=st.sampled_from(list(SicsStatus)),
)
def test_the_answer_to_another_command_is_never_taken(
    asked: str, answered: str, status: SicsStatus
) -> None:
    with pytest.raises(FrameError):
        decode_reply(asked, encode_answer(answered, status, "   1.00000 g").rstrip(b"\r\n"))


@given(place=st.integers(0, 3), bit=st.integers(0, 7))
def test_a_flipped_bit_in_id_or_status_never_makes_an_unstable_weight_a_stable_one(
    place: int, bit: int
) -> None:
    line = bytearray(b"S D    1.00000 g")
    line[place] ^= 1 << bit
    try:
        reply = decode_reply("SI", bytes(line))
    except FrameError:
        return
    assert isinstance(reply, Answer)
    assert reply.status is not SicsStatus.STABLE
