"""The simulated firmwares say of themselves what was captured of the real ones."""

from typing import Any

import pytest
from trio.testing import MockClock

from adapters.alicat.adapter import AlicatAdapter
from adapters.alicat.twin import AlicatTwin
from capa.devices.adapter import Identity
from capa.devices.spec import DeviceSpec
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant

METER = ["pressure", "temperature", "volumetric", "flow"]
LITRES = {"flow_unit": "slpm", "full_scale": 10.0}

METER_10V04 = """\
A D00 ID_ NAME______________________ TYPE_______ WIDTH NOTES___________________
A D01 700 Unit ID                    string          1
A D02 002 Abs Press                  s decimal     7/3 010 02 PSIA
A D03 003 Flow Temp                  s decimal     7/2 002 02 `C
A D04 004 Volu Flow                  s decimal     7/3 007 02 LPM
A D05 005 Mass Flow                  s decimal     7/3 007 02 SLPM
A D06 703 Gas                        string          6
A D07 701 *Error                     string          3 ADC
A D08 702 *Status                    string          3 OPL
A D09 702 *Status                    string          3 POV
A D10 702 *Status                    string          3 P2O
A D11 702 *Status                    string          3 TOV
A D12 702 *Status                    string          3 VOV
A D13 702 *Status                    string          3 MOV
A D14 702 *Status                    string          3 TMF
A D15 702 *Status                    string          3 OVR
A D16 702 *Status                    string          3 COM
A D17 702 *Status                    string          3 HLD
A D18 702 *Status                    string          3 EXH
A D19 702 *Status                    string          3 LCK
"""
CONTROLLER_7V09 = """\
A D00 ID_ NAME______________________ TYPE_______ WIDTH NOTES___________________
A D01 700 Unit ID                    string          1
A D02 002 Abs Press                  s decimal     7/2 010 02 PSIA
A D03 003 Flow Temp                  s decimal     7/2 002 02 `C
A D04 004 Volu Flow                  s decimal     7/2 007 02 LPM
A D05 005 Mass Flow                  s decimal     7/2 007 02 SLPM
A D06 037 Mass Flow Setpt            decimal       6/2 007 02 SLPM
A D07 703 Gas                        string        7/7
A D08 701 *Error                     string          3 ADC
A D09 702 *Status                    string          3 OPL
A D10 702 *Status                    string          3 POV
A D11 702 *Status                    string          3 TOV
A D12 702 *Status                    string          3 VOV
A D13 702 *Status                    string          3 MOV
A D14 702 *Status                    string          3 TMF
A D15 702 *Status                    string          3 OVR
A D16 702 *Status                    string          3 HLD
A D17 702 *Status                    string          3 EXH
A D18 702 *Status                    string          3 LCK
"""
CONTROLLER_5V12 = """\
A  D00 NAME_______ TYPE_____ MinVal_  MaxVal_  UNITS__
A  D01 Unit ID     char         A         Z         na
A  D02 Pressure    signed    +000.00  +160.00     PSIA
A  D03 Temperature signed    -010.00  +050.00        C
A  D04 Volumetric  signed    +0000.0  +0500.0      CCM
A  D05 Mass        signed    +0000.0  +0500.0     SCCM
A  D06 SetPoint    signed    +0000.0  +0500.0     SCCM
A  D07 Gas         string        Air       D2       na
A  D08 Error       string         na      ADC       na
A  D09 Status      string         na      LCK       na
A  D10 Status      string         na      OVR       na
A  D11 Status      string         na      POV       na
A  D12 Status      string         na      TOV       na
A  D13 Status      string         na      VOV       na
A  D14 Status      string         na      MOV       na
"""


def twin(firmware: str, options: dict[str, Any] | None = None) -> AlicatTwin:
    given = {"firmware": firmware}
    spec = DeviceSpec(name="gas", adapter="alicat", link="b", options=options or {}, twin=given)
    return AlicatTwin(spec, StillPlant())


def said(one: AlicatTwin, request: bytes) -> str:
    return b"".join(reply.data for reply in one.receive(request + b"\r")).decode("ascii")


@pytest.mark.parametrize(
    ("firmware", "options", "table"),
    [
        ("10v04", LITRES | {"columns": METER}, METER_10V04),
        ("7v09", LITRES, CONTROLLER_7V09),
        ("5v12", {}, CONTROLLER_5V12),
    ],
)
def test_a_table_of_columns_is_byte_for_byte_a_captured_one(
    firmware: str, options: dict[str, Any], table: str
) -> None:
    assert said(twin(firmware, options), b"A??D*") == table.replace("\n", "\r")


@pytest.mark.parametrize(("firmware", "last"), [("8v17", "D19"), ("10v20", "D21"), ("7v09", "D18")])
def test_the_table_of_a_controller_ends_where_it_did(firmware: str, last: str) -> None:
    *_, row = said(twin(firmware), b"A??D*").rstrip("\r").split("\r")
    assert row == f"A {last} 702 *Status                    string          3 LCK"


@pytest.mark.parametrize("request_", [b"ALS", b"ALS 5", b"ALSS"])
def test_a_meter_has_no_setpoint_to_tell(request_: bytes) -> None:
    meter = twin("10v04", {"columns": METER})
    assert said(meter, request_) == "A   1 ---\r"
    assert meter.outputs() == {"setpoint": 0.0}


@pytest.mark.parametrize("request_", [b"A$$LS 5", b"A$$LS", b"ALS", b"ALSS", b"AVE", b"A$$??M*"])
def test_gp_firmware_says_nothing_to_what_is_newer_than_itself(request_: bytes) -> None:
    gp = twin("GP")
    assert said(gp, request_) == ""
    assert gp.outputs() == {"setpoint": 0.0}
    assert said(gp, b"A$$R46") == "A   046 = 8\r"


async def test_gp_firmware_tells_its_maker_and_its_columns_in_its_own_way(
    autojump_clock: MockClock,
) -> None:
    gp = twin("GP")
    rows = said(gp, b"A??M*")
    assert [row[:5].strip() for row in rows.split("\r")[:-1]] == [f"A  M{n}" for n in range(9)]
    assert "\b" in rows
    assert "\b" in said(gp, b"A??D*")
    options = {"identify": True, "check_columns": True}
    spec = DeviceSpec(name="gas", adapter="alicat", link="bus", options=options)
    told = await AlicatAdapter(spec, DirectLink([gp])).open()
    assert told == Identity("alicat", "TWIN-500SCCM-D, unit A, gas N2", "000000", "GP07R100")
