"""The registers of a simulated Modbus device: parameters two registers wide, read and written."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from adapters.modbus.codec import (
    BadRequest,
    ExcCodes,
    ReadBits,
    ReadRegisters,
    Refusal,
    Registers,
    Reply,
    Request,
    WriteCoil,
    WriteRegister,
    WriteRegisters,
    Written,
)
from adapters.modbus.words import WordOrder, float_at, float_words, uint32_words
from capa.errors import CapaError

__all__ = ["Parameter", "RegisterBank", "ValueRefusedError", "exception_code"]

_MOST_CODE = 0xFF


def exception_code(value: float | None) -> int:
    """Return the code that a fault ``exception`` has a simulated device refuse with.

    Raises:
        CapaError: it is no byte.
    """
    if value is None:
        return ExcCodes.DEVICE_FAILURE
    if not 0 <= value <= _MOST_CODE:
        raise CapaError(
            f"the value of exception is a number from 0 to {_MOST_CODE}, not {value:g}: "
            "a Modbus code is one byte"
        )
    return int(value)


class ValueRefusedError(Exception):
    """A parameter will not take this value."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """Something in two registers. An ``enum`` sits in the first of them, whatever the order."""

    kind: Literal["float", "enum", "uint32"]
    get: Callable[[], float]
    put: Callable[[float], None] | None = None


class RegisterBank:
    """Parameters by the address of their first register.

    Args:
        order: the word order of floats and 32-bit numbers.
        unmapped: what reading a register that is not there does.
        half_write: what writing one half of a float does.
        max_read: how many registers one request may read.
    """

    def __init__(
        self,
        *,
        order: WordOrder,
        unmapped: Literal["exception", "zero"] = "exception",
        half_write: Literal["reject", "apply"] = "reject",
        max_read: int = 125,
    ) -> None:
        self._parameters: dict[int, Parameter] = {}
        self._order: WordOrder = order
        self._unmapped = unmapped
        self._half_write = half_write
        self._max_read = max_read

    def define(self, address: int, parameter: Parameter) -> None:
        """Put a parameter at ``address`` and the register behind it."""
        self._parameters[address] = parameter

    def answer(self, request: Request | BadRequest) -> Reply:
        """Carry out a request, checking as the standard says: function, count, address, value."""
        match request:
            case BadRequest(_, function, code):
                return Refusal(function, code)
            case ReadBits() | WriteCoil():
                return Refusal(request.function, ExcCodes.ILLEGAL_FUNCTION)
            case ReadRegisters(_, address, count):
                return self._read(request.function, address, count)
            case WriteRegister(_, address, value):
                return self._write(request.function, address, (value,))
            case WriteRegisters(_, address, values):
                return self._write(request.function, address, values)

    def _read(self, function: int, address: int, count: int) -> Reply:
        if count > self._max_read:
            return Refusal(function, ExcCodes.ILLEGAL_VALUE)
        words: list[int] = []
        for register in range(address, address + count):
            word = self._word(register)
            if word is None:
                return Refusal(function, ExcCodes.ILLEGAL_ADDRESS)
            words.append(word)
        return Registers(b"".join(word.to_bytes(2, "big") for word in words))

    def _word(self, register: int) -> int | None:
        first = register if register in self._parameters else register - 1
        parameter = self._parameters.get(first)
        if parameter is None:
            return 0 if self._unmapped == "zero" else None
        return self._words(parameter)[register - first]

    def _words(self, parameter: Parameter) -> tuple[int, int]:
        value = parameter.get()
        match parameter.kind:
            case "float":
                return float_words(value, self._order)
            case "uint32":
                return uint32_words(int(value), self._order)
            case "enum":
                return int(value), 0

    def _write(self, function: int, address: int, words: tuple[int, ...]) -> Reply:
        """Write all parameters or none: what is not there is found before anything changes."""
        puts: list[tuple[Callable[[float], None], float]] = []
        at = 0
        while at < len(words):
            first = self._first(address + at)
            parameter = self._parameters.get(first) if first is not None else None
            if first is None or parameter is None or parameter.put is None:
                return Refusal(function, ExcCodes.ILLEGAL_ADDRESS)
            value, used = self._take(parameter, address + at - first, words[at:])
            if value is None:
                return Refusal(function, ExcCodes.ILLEGAL_VALUE)
            puts.append((parameter.put, value))
            at += used
        return self._apply(function, puts)

    def _first(self, register: int) -> int | None:
        candidates = (register, register - 1)
        return next((address for address in candidates if address in self._parameters), None)

    def _take(
        self, parameter: Parameter, half: int, words: tuple[int, ...]
    ) -> tuple[float | None, int]:
        """Return the value that ``words`` give a parameter, and how many of them it takes."""
        if parameter.kind == "enum" and half == 0:
            return words[0], min(2, len(words))
        if half == 0 and len(words) > 1:
            return self._number(parameter, words[:2]), 2
        if self._half_write == "reject":
            return None, 1
        both = list(self._words(parameter))
        both[half] = words[0]
        return self._number(parameter, tuple(both)), 1

    def _number(self, parameter: Parameter, words: tuple[int, ...]) -> float:
        if parameter.kind == "uint32":
            low, high = words if self._order == "low_high" else words[::-1]
            return high << 16 | low
        return float_at(b"".join(word.to_bytes(2, "big") for word in words), 0, self._order)

    @staticmethod
    def _apply(function: int, puts: list[tuple[Callable[[float], None], float]]) -> Reply:
        try:
            for put, value in puts:
                put(value)
        except ValueRefusedError:
            return Refusal(function, ExcCodes.ILLEGAL_VALUE)
        return Written()
