"""The programmable memory block of the simulated EZ-ZONE."""

from adapters.modbus.codec import (
    Query,
    ReadRegisters,
    Refusal,
    Registers,
    Reply,
    Request,
    WriteRegister,
    WriteRegisters,
    Written,
)
from adapters.modbus.words import float_at
from adapters.watlow.twin import WatlowTwin
from capa.devices.spec import DeviceSpec
from tests.support.still_plant import StillPlant


def asked(twin: WatlowTwin, request: Request) -> Reply | None:
    query = Query(request)
    (reply,) = twin.receive(query.frame)
    return query.collector().feed(reply.data)


def controller() -> WatlowTwin:
    return WatlowTwin(DeviceSpec(name="heater", adapter="watlow", link="bus"), StillPlant())


def test_registers_that_lie_apart_are_read_in_a_row() -> None:
    twin = controller()
    assert asked(twin, WriteRegisters(1, 40, (360, 361, 2160, 2161))) == Written()
    reply = asked(twin, ReadRegisters(1, 200, 4))
    assert isinstance(reply, Registers)
    assert float_at(reply.data, 0, "low_high") == 77.0  # 25 degC
    assert round(float_at(reply.data, 2, "low_high"), 1) == 75.2  # 24 degC
    pointers = asked(twin, ReadRegisters(1, 40, 4))
    assert isinstance(pointers, Registers)
    assert list(pointers.words()) == [360, 361, 2160, 2161]


def test_a_pointer_to_nothing_is_refused_when_it_is_read() -> None:
    twin = controller()
    assert asked(twin, WriteRegister(1, 119, 9999)) == Written()
    reply = asked(twin, ReadRegisters(1, 279, 1))
    assert isinstance(reply, Refusal)
    assert reply.code == 2


def test_what_reaches_beyond_the_block_is_no_part_of_it() -> None:
    twin = controller()
    assert isinstance(asked(twin, ReadRegisters(1, 279, 2)), Refusal)
    assert isinstance(asked(twin, WriteRegisters(1, 119, (1, 2))), Refusal)
    assert isinstance(asked(twin, ReadRegisters(1, 360, 4)), Registers)
