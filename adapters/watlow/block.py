"""The programmable memory block of the simulated controller: registers of one's choice in a row.

Registers 40 to 119 hold the numbers of other registers, and 200 to 279 what those hold (PM
Integrated manual, page 232). Every register is one of a pair: 360 and 361 go to 40 and 41, to be
read in 200 and 201. What the pointers are from the factory is not known; here they are 0.
"""

from collections.abc import Callable

from adapters.modbus.codec import (
    ExcCodes,
    ReadRegisters,
    Refusal,
    Registers,
    Reply,
    Request,
    WriteRegister,
    WriteRegisters,
    Written,
)

__all__ = ["PointerBlock"]

_POINTERS, _SHOWN, _COUNT = 40, 200, 80


class PointerBlock:
    """Answers what concerns the block, and nothing else.

    Args:
        read: reads registers of the controller.
    """

    def __init__(self, read: Callable[[ReadRegisters], Reply]) -> None:
        self._read = read
        self._pointers = [0] * _COUNT

    def answer(self, request: Request) -> Reply | None:
        """Carry out a request that lies in the block; None for any other."""
        match request:
            case ReadRegisters(_, address, count) if _holds(_POINTERS, address, count):
                at = address - _POINTERS
                return _registers(self._pointers[at : at + count])
            case ReadRegisters(_, address, count) if _holds(_SHOWN, address, count):
                at = address - _SHOWN
                return self._shown(request, self._pointers[at : at + count])
            case WriteRegister(_, address, value) if _holds(_POINTERS, address, 1):
                return self._point(address, (value,))
            case WriteRegisters(_, address, values) if _holds(_POINTERS, address, len(values)):
                return self._point(address, values)
            case _:
                return None

    def _shown(self, request: ReadRegisters, pointers: list[int]) -> Reply:
        words: list[int] = []
        for pointer in pointers:
            reply = self._read(ReadRegisters(request.unit, pointer, 1, request.function))
            if not isinstance(reply, Registers):
                return Refusal(request.function, ExcCodes.ILLEGAL_ADDRESS)
            words += reply.words()
        return _registers(words)

    def _point(self, address: int, values: tuple[int, ...]) -> Reply:
        at = address - _POINTERS
        self._pointers[at : at + len(values)] = values
        return Written()


def _holds(start: int, address: int, count: int) -> bool:
    return start <= address and address + count <= start + _COUNT


def _registers(words: list[int]) -> Registers:
    return Registers(b"".join(word.to_bytes(2, "big") for word in words))
