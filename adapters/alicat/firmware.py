"""What the firmwares of the simulated device differ in; each was captured, or stands in a manual.

``../shared/protocols.md`` section 2, summed up in NOTES.md. ``GP`` takes writes with ``$$`` only,
and reads without, and says nothing to what is newer than itself; its number formats were not
captured, and are 8v17's here, nor was where in a row its backspaces are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = ["FIRMWARES", "Firmware", "FirmwareName"]

FirmwareName = Literal["GP", "5v12", "7v09", "8v17", "10v04", "10v20"]

_ALL = ("OPL", "POV", "P2O", "TOV", "VOV", "MOV", "TMF", "OVR", "COM", "HLD", "EXH", "GTA", "LCK")
_NO_GTA = tuple(code for code in _ALL if code != "GTA")
_NO_COM = tuple(code for code in _NO_GTA if code != "COM")
_OLDER = ("OPL", "POV", "TOV", "VOV", "MOV", "TMF", "OVR", "HLD", "EXH", "LCK")
_OLDEST = ("LCK", "OVR", "POV", "TOV", "VOV", "MOV")


@dataclass(frozen=True, slots=True)
class Firmware:
    """One firmware's ways."""

    usual: str = "+07.2f"
    """The format of a number that ``formats`` does not name."""
    formats: Mapping[str, str] = field(default_factory=dict)
    gas_width: int = 6
    gas_declared: str = "6"
    """The gas's width, as the table of columns has it."""
    codes: tuple[str, ...] = _ALL
    """Status codes that it knows, beside ``ADC``."""
    legacy_table: bool = False
    locks_on_l: bool = False
    """Whether anything that begins with L means: lock the display."""
    has_ls: bool = True
    """Whether it knows the setpoint command LS (9v00 on)."""
    is_modern: bool = False
    """Whether it knows LSS, FPF and GS (10v05 on)."""
    tells_version: bool = True
    wants_prefix: bool = False
    """Whether writes need ``$$``."""
    pads: bool = False
    """Whether its tables are padded with backspaces, and its maker's rows are the older nine."""

    def format_of(self, column: str) -> str:
        """Return the format specification of a column in the data frame."""
        return self.formats.get(column, self.usual)


FIRMWARES: Final[Mapping[FirmwareName, Firmware]] = {
    "GP": Firmware(
        codes=_OLDEST,
        legacy_table=True,
        has_ls=False,
        tells_version=False,
        wants_prefix=True,
        pads=True,
    ),
    "5v12": Firmware(
        "+07.1f",
        {"pressure": "+07.2f", "temperature": "+07.2f", "setpoint": "06.1f"},
        gas_width=7,
        codes=_OLDEST,
        legacy_table=True,
        locks_on_l=True,
        has_ls=False,
    ),
    "7v09": Firmware(
        formats={"setpoint": "06.2f"},
        gas_width=7,
        gas_declared="7/7",
        codes=_OLDER,
        locks_on_l=True,
        has_ls=False,
    ),
    "8v17": Firmware(codes=_NO_COM, has_ls=False),
    "10v04": Firmware("+07.3f", {"temperature": "+07.2f"}, codes=_NO_GTA),
    "10v20": Firmware(is_modern=True),
}
