"""What the simulated device says of itself: its columns, its maker, its gases; in both dialects.

The layout is that of captured tables (10v20, 10v04, 7v09, 5v12). Numbers behind a row's name are
the device's own ids of statistics and units, and nothing here reads them.
"""

import re
from collections.abc import Sequence
from typing import Literal

from adapters.alicat.codec import Column
from adapters.alicat.firmware import Firmware
from adapters.alicat.gases import GASES

__all__ = ["column_rows", "gas_rows", "maker_rows"]

_MODERN = {
    "pressure": ("002", "Abs Press", "010 02 PSIA"),
    "temperature": ("003", "Flow Temp", "002 02 `C"),
    "volumetric": ("004", "Volu Flow", "012 02 CCM"),
    "flow": ("005", "Mass Flow", "012 02 SCCM"),
    "setpoint": ("037", "Mass Flow Setpt", "012 02 SCCM"),
    "total": ("009", "Mass Total", "012 02 SCC"),
    "valve": ("013", "Valve Drive", "001 02 %"),
}
_LEGACY = {
    "pressure": ("Pressure", "signed", "+000.00", "+160.00", "PSIA"),
    "temperature": ("Temperature", "signed", "-010.00", "+050.00", "C"),
    "volumetric": ("Volumetric", "signed", "+0000.0", "+0500.0", "CCM"),
    "flow": ("Mass", "signed", "+0000.0", "+0500.0", "SCCM"),
    "setpoint": ("SetPoint", "signed", "+0000.0", "+0500.0", "SCCM"),
    "total": ("Total", "unsigned", "0000000", "9999999", "SCC"),
    "valve": ("Valve", "signed", "+000.00", "+100.00", "%"),
}
_FORMAT = re.compile(r"(\+?)0(\d)\.(\d)f")
_LITRES = (("012 02 SCCM", "007 02 SLPM"), ("012 02 CCM", "007 02 LPM"), ("CCM", "LPM"))


def column_rows(
    unit: str,
    columns: Sequence[Column],
    ways: Firmware,
    *,
    flow_unit: Literal["sccm", "slpm"] = "sccm",
) -> list[str]:
    """Return the reply to ``??D*``, line by line."""
    if ways.legacy_table:
        rows = _legacy_rows(unit, columns, ways)
    else:
        rows = _modern_rows(unit, columns, ways)
    return [_in_litres(row) for row in rows] if flow_unit == "slpm" else rows


def _in_litres(row: str) -> str:
    for small, large in _LITRES:
        row = row.replace(small, large)
    return row.replace("SCC", "SL")


def _modern_rows(unit: str, columns: Sequence[Column], ways: Firmware) -> list[str]:
    rows = [
        ("ID_", "NAME______________________", "TYPE_______", "WIDTH", "NOTES___________________")
    ]
    rows.append(("700", "Unit ID", "string", "1", ""))
    rows += [_modern_row(column, ways) for column in columns]
    rows.append(("703", "Gas", "string", ways.gas_declared, ""))
    rows.append(("701", "*Error", "string", "3", "ADC"))
    rows += [("702", "*Status", "string", "3", code) for code in ways.codes]
    return [
        f"{unit} D{number:02} {key} {name:<26} {kind:<11} {width:>5} {notes}".rstrip()
        for number, (key, name, kind, width, notes) in enumerate(rows)
    ]


def _modern_row(column: Column, ways: Firmware) -> tuple[str, str, str, str, str]:
    """Declare a column as the frame has it."""
    key, name, unit = _MODERN[column]
    match = _FORMAT.fullmatch(ways.format_of(column))
    assert match is not None  # noqa: S101 - the firmwares' own formats
    return key, name, "s decimal" if match[1] else "decimal", f"{match[2]}/{match[3]}", unit


def _legacy_rows(unit: str, columns: Sequence[Column], ways: Firmware) -> list[str]:
    rows = [("NAME_______", "TYPE_____", "MinVal_", "MaxVal_", "UNITS__")]
    rows.append(("Unit ID", "char", "A   ", "Z  ", "na"))
    rows += [_LEGACY[column] for column in columns]
    rows.append(("Gas", "string", "Air", "D2", "na"))
    rows.append(("Error", "string", "na", "ADC", "na"))
    rows += [("Status", "string", "na", code, "na") for code in ways.codes]
    return [
        f"{unit}  D{number:02} "
        + _padded(f"{name:<11} {kind:<9} {least:>7}  {most:>7}  {units:>7}", ways)
        for number, (name, kind, least, most, units) in enumerate(rows)
    ]


def _padded(text: str, ways: Firmware) -> str:
    return f"\b{text}\b" if ways.pads else text


def maker_rows(unit: str, firmware: str, ways: Firmware) -> list[str]:
    """Return the reply to ``??M*``."""
    if ways.pads:
        return [f"{unit}  M{n} {_padded(text, ways)}" for n, text in enumerate(_GP_MAKER)]
    texts = (
        "ALICAT SCIENTIFIC",
        "www.alicat.com",
        "Ph   000-000-0000",
        "twin",
        "Model Number TWIN-500SCCM-D",
        "Serial Number 000000",
        "Date Manufactured 01/01/2026",
        "Date Calibrated   01/01/2026",
        "Calibrated By     --",
        f"Software Revision {firmware}.0-R24",
    )
    return [f"{unit}  M{number:02} {text}" for number, text in enumerate(texts)]


_GP_MAKER = (
    "Alicat Scientific Inc.",
    "",
    "Ph   000-000-0000",
    "Fax  000-000-0000",
    "Mdl TWIN-500SCCM-D",
    "Serial No. 000000",
    "Date Mfg. 01/01/2026",
    "Calibrated By --",
    "Software GP07R100",
)


def gas_rows(unit: str) -> list[str]:
    """Return the reply to ``??G*``."""
    return [f"{unit} G{number:02} {label:>8}" for number, label in GASES.items()]
