"""Every family that ships, put to the contract that third parties' are put to."""

from typing import ClassVar

from adapters.alicat import FAMILY as ALICAT
from adapters.mettler import FAMILY as METTLER
from adapters.modbus import FAMILY as MODBUS
from adapters.sartorius import FAMILY as SARTORIUS
from adapters.watlow import FAMILY as WATLOW
from capa.devices.adapter import FieldWrite
from capa.devices.contract import AdapterContract, Case
from capa.devices.spec import DeviceSpec, LinkSpec

SERIAL = LinkSpec(name="line", port="memory", baud=19200, reply_timeout_s=0.3, reconnect_max_s=1.0)
TCP = SERIAL.model_copy(update={"transport": "tcp"})

MODBUS_FIELDS = {
    "flux": {
        "address": 0,
        "register": "input",
        "type": "int16",
        "scale": 0.1,
        "unit": "mV",
        "sensor_fail": [32767],
    },
    "alarm": {"address": 3, "register": "discrete", "type": "bit", "unit": "1"},
    "limit": {
        "address": 10,
        "type": "float32",
        "unit": "degC",
        "access": "rw",
        "command": "set_limit",
    },
}
MODBUS_TWIN = {"fields": {"flux": {"quantity": "furnace.pv_degC"}, "limit": {"value": 20.0}}}


class TestWatlow(AdapterContract):
    case: ClassVar[Case] = Case(
        family=WATLOW,
        device=DeviceSpec(
            name="heater",
            adapter="watlow",
            link="line",
            address=1,
            options={"also_read": ["mode", "ramp", "comms", "alarm1"]},
        ),
        link=SERIAL,
        write=FieldWrite("setpoint", 30.0),
        slack=3.0,
    )


class TestWatlowTcp(AdapterContract):
    case: ClassVar[Case] = Case(
        family=WATLOW,
        device=DeviceSpec(
            name="heater", adapter="watlow", link="line", address=1, options={"framing": "tcp"}
        ),
        link=TCP,
        write=FieldWrite("setpoint", 30.0),
        slack=3.0,
    )

    def test_a_fault_of_the_line_is_never_a_wrong_reading_and_ends_when_it_ends(self) -> None:
        """Left out: TCP has the check sum here, so a wrong byte can't come from the line."""

    def test_probes_change_nothing_and_one_of_them_finds_the_device(self) -> None:
        """Left out: a network is not searched."""


class TestRegisterMap(AdapterContract):
    case: ClassVar[Case] = Case(
        family=MODBUS,
        device=DeviceSpec(
            name="box",
            adapter="modbus",
            link="line",
            address=7,
            options={"fields": MODBUS_FIELDS},
            twin=MODBUS_TWIN,
        ),
        link=SERIAL,
        write=FieldWrite("limit", 30.0),
    )


class TestAlicat(AdapterContract):
    case: ClassVar[Case] = Case(
        family=ALICAT,
        device=DeviceSpec(
            name="purge",
            adapter="alicat",
            link="line",
            address="A",
            options={"gas_command": "G", "tare_command": "V", "check_columns": True},
        ),
        link=SERIAL,
        write=FieldWrite("setpoint", 30.0),
    )


class TestSartoriusLong(AdapterContract):
    case: ClassVar[Case] = Case(
        family=SARTORIUS,
        device=DeviceSpec(name="balance", adapter="sartorius", link="line"),
        link=SERIAL,
        slack=0.01,
    )


class TestSartoriusShort(AdapterContract):
    case: ClassVar[Case] = Case(
        family=SARTORIUS,
        device=DeviceSpec(
            name="balance", adapter="sartorius", link="line", twin={"line": 16, "decimals": 3}
        ),
        link=SERIAL,
        slack=0.01,
    )


class TestMettler(AdapterContract):
    case: ClassVar[Case] = Case(
        family=METTLER,
        device=DeviceSpec(name="balance", adapter="mettler", link="line"),
        link=SERIAL,
        slack=0.01,
    )
