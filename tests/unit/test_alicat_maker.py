"""What an Alicat says of its maker, as it was captured."""

from typing import Any

import pytest
from trio.testing import MockClock

from adapters.alicat.adapter import AlicatAdapter
from adapters.alicat.codec import FrameReader
from adapters.alicat.maker import Maker, MakerReply
from adapters.alicat.twin import AlicatTwin
from capa.devices.adapter import Identity
from capa.devices.spec import DeviceSpec
from capa.errors import FrameError
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant

CAPTURED = (
    b"A  M00 ALICAT SCIENTIFIC\rA  M01 www.alicat.com\rA  M02 Ph   520-290-6060\r"
    b"A  M03 info@alicat.com\rA  M04 Model Number MC-500SCCM-D\rA  M05 Serial Number 521641\r"
    b"A  M06 Date Manufactured 03/02/2025\rA  M07 Date Calibrated   03/02/2025\r"
    b"A  M08 Calibrated By     BL\rA  M09 Software Revision 10v20.0-R24\r"
)
READER = FrameReader("A", ("pressure", "temperature", "volumetric", "flow", "setpoint"))


def driver(options: dict[str, Any], **twin: object) -> AlicatAdapter:
    spec = DeviceSpec(name="gas", adapter="alicat", link="bus", options=options, twin=twin)
    return AlicatAdapter(spec, DirectLink([AlicatTwin(spec, StillPlant())]))


@pytest.mark.parametrize("chunk", [1, 13, 1000])
def test_captured_rows_tell_model_serial_number_and_software(chunk: int) -> None:
    reply = MakerReply("A", READER)
    found = [reply.feed(CAPTURED[at : at + chunk]) for at in range(0, len(CAPTURED), chunk)]
    assert found[-1] == Maker("MC-500SCCM-D", "521641", "10v20.0-R24")
    assert found[:-1] == [None] * (len(found) - 1)


@pytest.mark.parametrize(
    "data", [b"B  M00 ALICAT SCIENTIFIC\r", b"A +014.62\r", b"\xff\r", b"A" * 1100]
)
def test_what_are_no_rows_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        MakerReply("A", READER).feed(data)


async def test_a_device_is_asked_who_it_is_where_the_profile_wants_it(
    autojump_clock: MockClock,
) -> None:
    told = await driver({"identify": True}).open()
    assert told == Identity(
        "alicat", "TWIN-500SCCM-D, unit A, gas N2", serial="000000", firmware="10v20.0-R24"
    )
    assert (await driver({}).open()).serial == ""


async def test_rows_with_fewer_lines_and_padding_tell_what_they_know(
    autojump_clock: MockClock,
) -> None:
    short = b"A  M5 \b\bSerial Number 77\b\r\r"
    assert (await answered(short).open()).serial == "77"


def answered(reply: bytes) -> AlicatAdapter:
    """Return the driver of a device that answers the question about its maker so."""
    one = driver({"identify": True})
    link = one._link
    assert isinstance(link, DirectLink)
    link.garble = lambda data: reply if b"M00" in data else data
    return one


def test_the_short_labels_of_gp_are_read() -> None:
    rows = b"".join(
        b"A  M%d \b\b%b\b\r" % row
        for row in enumerate(
            (
                b"Alicat Scientific Inc.",
                b"",
                b"Ph   520-290-6060",
                b"Fax  520-290-0109",
                b"Mdl MC-100SCCM-D",
                b"Serial No. 68874",
                b"Date Mfg. 01/23/2012",
                b"Calibrated By BL",
                b"Software GP07R100",
            )
        )
    )
    assert MakerReply("A", READER).feed(rows) == Maker("MC-100SCCM-D", "68874", "GP07R100")


@pytest.mark.parametrize(
    "reaction",
    [
        b"?\r",
        b"\r?\r",
        b"",
        b"A +014.62 +021.89 +000.00 +000.00 +000.00     N2\r",
        b"A +014.62 +021.89 +000.00 +000.00 +000.00     N2 HLD LCK\r",
        b"A   1 ---\r",
        b"A +0 1 ---\r",
        b"A   Feature Not Enabled\r",
    ],
)
async def test_a_device_that_does_not_know_the_question_has_no_name(
    reaction: bytes, autojump_clock: MockClock
) -> None:
    told = await answered(reaction).open()
    assert told == Identity("alicat", "unit A, gas N2")


def test_what_was_told_before_a_refusal_is_kept() -> None:
    reply = b"A  M04 Model Number MC-500SCCM-D\r?\r"
    assert MakerReply("A", READER).feed(reply) == Maker("MC-500SCCM-D")
