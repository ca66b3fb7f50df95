"""Gas numbers, as every firmware counts them, and the labels that data frames show.

Sources: Alicat manuals, the tables of alicatlib and of numat's driver. They disagree about 25 and
26, and so does this table: both labels are read, neither is written as anything but its number.
"""

from collections.abc import Mapping
from typing import Final

__all__ = ["GASES", "gas_number"]

GASES: Final[Mapping[int, str]] = {
    0: "Air",
    1: "Ar",
    2: "CH4",
    3: "CO",
    4: "CO2",
    5: "C2H6",
    6: "H2",
    7: "He",
    8: "N2",
    9: "N2O",
    10: "Ne",
    11: "O2",
    12: "C3H8",
    13: "nC4H10",
    14: "C2H2",
    15: "C2H4",
    16: "iC4H10",
    17: "Kr",
    18: "Xe",
    19: "SF6",
    20: "C-25",
    21: "C-10",
    22: "C-8",
    23: "C-2",
    24: "C-75",
    25: "He-25",
    26: "He-75",
    27: "A1025",
    28: "Star29",
    29: "P-5",
    30: "NO",
    31: "NF3",
    32: "NH3",
    33: "Cl2",
    34: "H2S",
    35: "SO2",
    36: "C3H6",
    210: "D-2",
}

_ALSO: Final[Mapping[str, int]] = {
    "A-75": 25,
    "A-25": 26,
    "n-C4H10": 13,
    "i-C4H10": 16,
}
_NUMBERS = {label: number for number, label in GASES.items()} | dict(_ALSO)


def gas_number(label: str, own: Mapping[str, int]) -> int | None:
    """Return the number of a gas by the label in a data frame; None if nobody knows it.

    ``own`` are the mixtures that the profile names.
    """
    found = own.get(label)
    return _NUMBERS.get(label) if found is None else found
