"""Which registers are read together."""

from collections.abc import Mapping, Sequence

from adapters.modbus.codec import Query, ReadBits, ReadRegisters
from adapters.modbus.fields import BIT_SPACES, RegisterField
from capa.models import Frozen

__all__ = ["Block", "block_of", "blocks_of", "reading"]

_BITS_IN_A_REGISTER = 16
_MOST_BITS = 2000


class Block(Frozen):
    """Registers, or bits, read in one request, and the names of the fields in them."""

    function: int
    address: int
    count: int
    fields: tuple[str, ...]
    of_bits: bool = False


def block_of(name: str, field: RegisterField) -> Block:
    """Return the block of one field alone."""
    return Block(
        function=field.function,
        address=field.address,
        count=field.width,
        fields=(name,),
        of_bits=field.space in BIT_SPACES,
    )


def blocks_of(
    fields: Mapping[str, RegisterField], *, bridge: int, max_read: int
) -> Sequence[Block]:
    """Batch neighbouring registers into as few requests as the device allows.

    Args:
        fields: the map.
        bridge: how many registers that no field claims may be read along; 0 where reading a
            register that is not there is refused, as many devices do.
        max_read: the most registers of one request.
    """
    blocks: list[Block] = []
    ordered = sorted(fields.items(), key=lambda item: (item[1].function, item[1].address))
    for name, field in ordered:
        alone = block_of(name, field)
        joined = _joined(blocks[-1], alone, bridge, max_read) if blocks else None
        if joined is None:
            blocks.append(alone)
        else:
            blocks[-1] = joined
    return blocks


def _joined(last: Block, more: Block, bridge: int, max_read: int) -> Block | None:
    """Return both as one block, if they may be read together."""
    most = min(_MOST_BITS, max_read * _BITS_IN_A_REGISTER) if more.of_bits else max_read
    end = more.address + more.count
    gap = more.address - (last.address + last.count)
    if last.function != more.function or gap > bridge or end - last.address > most:
        return None
    count = max(last.count, end - last.address)
    return last.model_copy(update={"count": count, "fields": (*last.fields, *more.fields)})


def reading(unit: int, block: Block) -> Query:
    """Return the query that reads a block."""
    if block.of_bits:
        return Query(ReadBits(unit, block.address, block.count, block.function))
    return Query(ReadRegisters(unit, block.address, block.count, block.function))
