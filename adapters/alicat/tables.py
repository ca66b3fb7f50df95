"""What the simulated device says of itself: its columns, its maker, its gases; in both dialects.

The layout is that of captured tables (10v20, 5v12). Numbers behind a row's name are the device's
own ids of statistics and units, and nothing here reads them.
"""

from collections.abc import Sequence
from typing import Literal

from adapters.alicat.codec import Column
from adapters.alicat.gases import GASES

__all__ = ["column_rows", "gas_rows", "maker_rows"]

_MODERN = {
    "pressure": ("002", "Abs Press", "s decimal", "7/2 010 02 PSIA"),
    "temperature": ("003", "Flow Temp", "s decimal", "7/2 002 02 `C"),
    "volumetric": ("004", "Volu Flow", "s decimal", "7/2 012 02 CCM"),
    "flow": ("005", "Mass Flow", "s decimal", "7/2 012 02 SCCM"),
    "setpoint": ("037", "Mass Flow Setpt", "s decimal", "7/2 012 02 SCCM"),
    "total": ("009", "Mass Total", "s decimal", "9/2 012 02 SCC"),
    "valve": ("013", "Valve Drive", "s decimal", "7/2 001 02 %"),
}
_LEGACY = {
    "pressure": ("Pressure", "signed", "+000.00", "+160.00", "PSIA"),
    "temperature": ("Temperature", "signed", "-010.00", "+060.00", "`C"),
    "volumetric": ("Volumetric", "signed", "-0500.0", "+0500.0", "CCM"),
    "flow": ("Mass", "signed", "-0500.0", "+0500.0", "SCCM"),
    "setpoint": ("Setpoint", "unsigned", "0000.0", "0500.0", "SCCM"),
    "total": ("Total", "unsigned", "0000000", "9999999", "SCC"),
    "valve": ("Valve", "signed", "+000.00", "+100.00", "%"),
}


def column_rows(
    unit: str,
    columns: Sequence[Column],
    *,
    legacy: bool,
    codes: Sequence[str] = (),
    flow_unit: Literal["sccm", "slpm"] = "sccm",
) -> list[str]:
    """Return the reply to ``??D*``, line by line."""
    rows = _legacy_rows(unit, columns) if legacy else _modern_rows(unit, columns, codes)
    return [_in_litres(row) for row in rows] if flow_unit == "slpm" else rows


def _in_litres(row: str) -> str:
    return row.replace("012 02 SCCM", "007 02 SLPM").replace("CCM", "LPM").replace("SCC", "SL")


def _modern_rows(unit: str, columns: Sequence[Column], codes: Sequence[str]) -> list[str]:
    rows = [("ID_", "NAME______________________", "TYPE_______", "WIDTH NOTES___________________")]
    rows.append(("700", "Unit ID", "string", "1"))
    rows += [_MODERN[column] for column in columns]
    rows.append(("703", "Gas", "string", "6"))
    rows.append(("701", "*Error", "string", "3 ADC"))
    rows += [("702", "*Status", "string", f"3 {code}") for code in codes]
    return [
        f"{unit} D{number:02} {row[0]} {row[1]:<26} {row[2]:<11}   {row[3]}"
        for number, row in enumerate(rows)
    ]


def _legacy_rows(unit: str, columns: Sequence[Column]) -> list[str]:
    rows = [("NAME_______", "TYPE_____", "MinVal_", "MaxVal_", "UNITS__")]
    rows.append(("Unit ID", "char", "A", "Z", ""))
    rows += [_LEGACY[column] for column in columns]
    rows.append(("Gas", "string", "", "", ""))
    return [
        f"{unit}  D{number:02} {row[0]:<11} {row[1]:<9} {row[2]:<8} {row[3]:<8} {row[4]}"
        for number, row in enumerate(rows)
    ]


def maker_rows(unit: str, firmware: str) -> list[str]:
    """Return the reply to ``??M*``."""
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


def gas_rows(unit: str) -> list[str]:
    """Return the reply to ``??G*``."""
    return [f"{unit} G{number:02} {label:>8}" for number, label in GASES.items()]
