"""What an Alicat device can tell or be told, and what a data frame says of it."""

import math
from collections.abc import Mapping

from adapters.alicat.codec import Column, DataFrame
from adapters.alicat.gases import gas_number
from adapters.alicat.options import AlicatOptions
from capa.channels.sample import Status
from capa.devices.adapter import FieldInfo, Reading
from capa.devices.momentary import key_field

__all__ = ["fields_of", "readings_of"]

_OVER: Mapping[str, Mapping[Column, Status]] = {
    "MOV": {"flow": Status.OVERLOAD, "volumetric": Status.OVERLOAD},
    "VOV": {"flow": Status.OVERLOAD, "volumetric": Status.OVERLOAD},
    "POV": {"pressure": Status.OVERLOAD},
    "OPL": {"pressure": Status.OVERLOAD},
    "TOV": {"temperature": Status.OVERLOAD},
    "OVR": {"total": Status.OVERLOAD},
    "TMF": {"total": Status.UNDERRANGE},
}
_CONVERTER_FAULT = "ADC"
_VOLUME_UNITS = {"sccm": "cm^3/min", "slpm": "L/min"}


def fields_of(options: AlicatOptions) -> dict[str, FieldInfo]:
    """Return the fields of a device with these columns and commands."""
    flow, step = options.flow_unit, 10.0**-options.setpoint_decimals
    in_frame = (
        FieldInfo("setpoint", flow, "set_setpoint", step, description="setpoint column"),
        FieldInfo("flow", flow, description="mass flow"),
        FieldInfo("volumetric", _VOLUME_UNITS[flow], description="volumetric flow"),
        FieldInfo("pressure", options.pressure_unit, description="absolute pressure"),
        FieldInfo("temperature", "degC", description="gas temperature"),
        FieldInfo("total", options.total_unit, description="totalizer"),
        FieldInfo("valve", "%", description="valve drive"),
    )
    known = [info for info in in_frame if info.name in options.columns]
    gas = "set_gas" if options.gas_command is not None else None
    known.append(FieldInfo("gas", "1", gas, 0.5, description="gas number, 8 is N2"))
    if "setpoint" in options.columns:
        hold = "valve hold: 0 none, 1 as it is, 2 closed"
        known.append(FieldInfo("hold", "1", "set_hold", 0.5, description=hold))
    if options.tare_command is not None:
        known.append(key_field("tare", "takes the flow shown as zero"))
    if options.reset_total_command is not None:
        known.append(key_field("reset_total", "sets the totalizer to zero"))
    return {info.name: info for info in known}


def readings_of(
    options: AlicatOptions, frame: DataFrame, at_s: float, *, restless: bool = False
) -> list[Reading]:
    """Return what a frame says. ``restless``: two looks at it disagreed, so it is settling."""
    calm = Status.SETTLING if restless else Status.OK
    readings = []
    for name, value in zip(options.columns, frame.values, strict=True):
        status = _status(name, frame.codes) if frame.codes else Status.OK
        usable = status is Status.OK
        readings.append(
            Reading(
                name,
                value if usable else math.nan,
                at_s,
                calm if usable else status,
                frame.line,
            )
        )
    number = gas_number(frame.gas, options.mixtures)
    if number is None:
        readings.append(Reading("gas", math.nan, at_s, Status.SENSOR_FAIL, frame.line))
    else:
        readings.append(Reading("gas", float(number), at_s, native=frame.line))
    return readings


def _status(column: Column, codes: frozenset[str]) -> Status:
    if _CONVERTER_FAULT in codes and column != "setpoint":
        return Status.SENSOR_FAIL
    found = (_OVER[code].get(column) for code in codes if code in _OVER)
    return next((status for status in found if status is not None), Status.OK)
