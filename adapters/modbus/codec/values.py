"""Modbus requests and replies as values, whatever frames carry them.

Facts: Modbus Application Protocol v1.1b3. Addresses are the numbers in the PDU, from 0.
"""

from dataclasses import dataclass

from pymodbus.constants import ExcCodes

__all__ = [
    "MAX_READ",
    "MAX_READ_BITS",
    "MAX_WRITE",
    "READ_COILS",
    "READ_DISCRETE",
    "READ_HOLDING",
    "READ_INPUT",
    "REFUSED",
    "WRITE_COIL",
    "WRITE_MULTIPLE",
    "WRITE_SINGLE",
    "BadRequest",
    "Bits",
    "ExcCodes",
    "ReadBits",
    "ReadRegisters",
    "Refusal",
    "Registers",
    "Reply",
    "Request",
    "WriteCoil",
    "WriteRegister",
    "WriteRegisters",
    "Written",
]

READ_COILS = 1
READ_DISCRETE = 2
READ_HOLDING = 3
READ_INPUT = 4
WRITE_COIL = 5
WRITE_SINGLE = 6
WRITE_MULTIPLE = 16
REFUSED = 0x80

MAX_READ = 125
MAX_READ_BITS = 2000
MAX_WRITE = 123

_CODE_NAMES = {code.value: code.name.lower().replace("_", " ") for code in ExcCodes}


@dataclass(frozen=True, slots=True)
class ReadRegisters:
    """Read ``count`` registers from ``address`` on."""

    unit: int
    address: int
    count: int
    function: int = READ_HOLDING


@dataclass(frozen=True, slots=True)
class ReadBits:
    """Read ``count`` coils or discrete inputs from ``address`` on."""

    unit: int
    address: int
    count: int
    function: int = READ_COILS


@dataclass(frozen=True, slots=True)
class WriteRegister:
    """Write one register. Its reply is an echo: read back what matters."""

    unit: int
    address: int
    value: int

    @property
    def function(self) -> int:
        """The function code."""
        return WRITE_SINGLE


@dataclass(frozen=True, slots=True)
class WriteCoil:
    """Write one coil. Its reply is an echo, too."""

    unit: int
    address: int
    on: bool

    @property
    def function(self) -> int:
        """The function code."""
        return WRITE_COIL


@dataclass(frozen=True, slots=True)
class WriteRegisters:
    """Write neighbouring registers in one go: the only safe way to write a float."""

    unit: int
    address: int
    values: tuple[int, ...]

    @property
    def function(self) -> int:
        """The function code."""
        return WRITE_MULTIPLE


Request = ReadRegisters | ReadBits | WriteRegister | WriteCoil | WriteRegisters


@dataclass(frozen=True, slots=True)
class Registers:
    """What was read: two bytes a register, high byte first."""

    data: bytes

    def words(self) -> tuple[int, ...]:
        """Return the registers as unsigned integers."""
        data = self.data
        return tuple(data[i] << 8 | data[i + 1] for i in range(0, len(data) - 1, 2))


@dataclass(frozen=True, slots=True)
class Bits:
    """Coils or discrete inputs: eight in a byte, the first in its lowest bit."""

    data: bytes

    def at(self, index: int) -> bool:
        """Return one of them, counted from the first that was asked for."""
        return bool(self.data[index // 8] >> index % 8 & 1)


@dataclass(frozen=True, slots=True)
class Written:
    """The slave says that it took the value."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An exception reply: the slave understood and would not."""

    function: int
    code: int

    def __str__(self) -> str:
        name = _CODE_NAMES.get(self.code, "unknown to the standard")
        return f"exception {self.code:02X} ({name}) to function {self.function:02X}"


Reply = Registers | Bits | Written | Refusal


@dataclass(frozen=True, slots=True)
class BadRequest:
    """A well-framed request that deserves an exception reply with ``code``."""

    unit: int
    function: int
    code: int
