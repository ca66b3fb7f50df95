"""What is dangerous about what an EZ-ZONE PM is set to; pure.

Source of the five seconds between two saves: Watlow RUI/Gateway manual, page 42; of the million
writes: EZ-ZONE Communications manual, page 39; of the factory values and of what the power does
without a sensor: register list ("PM - Map 1").
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from adapters.modbus.words import WordOrder
from adapters.watlow.codec import Units, from_degC
from adapters.watlow.settings import SAVE
from capa.devices.preflight import OutputUse, SettingFound, SettingReport, Severity
from capa.devices.spec import SettingValue

__all__ = ["ENDURANCE", "Floats", "Found", "hazards_of"]

ENDURANCE = 1_000_000
_SAVE_EVERY_S = 5.0
_FACTORY_ALARM: Mapping[Units, tuple[float, float]] = {
    Units.DEG_F: (300.0, 32.0),
    Units.DEG_C: (149.0, 0.0),
}
_NAMES = {Units.DEG_F: "degF", Units.DEG_C: "degC"}
_NEAR = 0.6
_LEAST, _MOST = 1e-6, 1e5

Found = Mapping[str, SettingFound]
Floats = tuple[float, float]
"""A number as it was read, and as it would read in the other word order."""


def hazards_of(
    device: str,
    unit: Units,
    order: WordOrder,
    found: Found,
    uses: Sequence[OutputUse],
    floats: Mapping[str, Floats],
) -> list[SettingReport]:
    """Return the hazards of one controller; most concern only one whose setpoint is commanded.

    What a method commands itself, such as the mode, is the method's business.
    """
    judge = _Judge(device, found)
    reports = [*judge.word_order(order, floats), *judge.units(unit)]
    commanded = {use.field for use in uses}
    if "setpoint" in commanded:
        for hazards in (judge.loop, judge.input_error):
            reports += hazards()
        reports += judge.mode() if "mode" not in commanded else ()
        reports += judge.ramp() if "ramp_action" not in commanded else ()
    for use in (use for use in uses if use.field == "setpoint"):
        reports += [*judge.limits(use), *judge.alarm(use), *judge.wear(use)]
    return reports


class _Judge:
    """Each method looks for one hazard."""

    def __init__(self, device: str, found: Found) -> None:
        self._device = device
        self._found = found

    def _report(
        self,
        setting: str,
        severity: Severity,
        message: str,
        values: tuple[SettingValue | None, SettingValue | None],
        remedy: str,
        unit: str = "",
    ) -> SettingReport:
        expected, found = values
        return SettingReport(
            self._device, setting, severity, message, expected, found, unit, remedy
        )

    def _number(self, name: str) -> float | None:
        value = self._found.get(name, SettingFound(None)).value
        return None if value is None or isinstance(value, str) else float(value)

    def _word(self, name: str) -> str | None:
        value = self._found.get(name, SettingFound(None)).value
        return value if isinstance(value, str) else None

    def word_order(self, order: WordOrder, floats: Mapping[str, Floats]) -> Iterator[SettingReport]:
        """See numbers that make sense only with their halves exchanged, whatever 2488 says."""
        odd = [pair for pair in floats.values() if not _plausible(pair[0])]
        if len(odd) < 2 or not all(_plausible(swapped) for _, swapped in floats.values()):
            return
        other = "high_low" if order == "low_high" else "low_high"
        yield self._report(
            "word_order",
            Severity.REFUSE,
            f'the profile says word_order = "{order}", but the device\'s numbers make sense only '
            f'as "{other}": {odd[0][0]:g} would be {odd[0][1]:g}',
            (order, other),
            "change word_order in [devices.options], or register 2488",
        )

    def units(self, unit: Units) -> Iterator[SettingReport]:
        """See through a label: factory values of alarm 1 that are those of the other unit."""
        high, low = self._number("alarm1_high"), self._number("alarm1_low")
        if high is None or low is None:
            return
        other = Units.DEG_C if unit is Units.DEG_F else Units.DEG_F
        seen = (from_degC(high, unit), from_degC(low, unit))
        if any(abs(a - b) > _NEAR for a, b in zip(seen, _FACTORY_ALARM[other], strict=True)):
            return
        yield self._report(
            "wire_units",
            Severity.WARN,
            f'the profile has wire_unit = "{_NAMES[unit]}", but alarm 1 reads {seen[0]:g} and '
            f"{seen[1]:g}, which are its factory values in {_NAMES[other]}",
            (_NAMES[unit], _NAMES[other]),
            "compare the process value with the panel; an expected max_setpoint proves the unit",
        )

    def mode(self) -> Iterator[SettingReport]:
        """See a controller that does not follow its setpoint, not even the safe one."""
        mode = self._word("control_mode")
        if mode in (None, "auto"):
            return
        effect = "setpoints change nothing" if mode == "off" else "it gives a fixed power"
        yield self._report(
            "control_mode",
            Severity.REFUSE,
            f"a commanded controller has to be in auto, the device is in {mode}: {effect}",
            ("auto", mode),
            "set it to auto at the panel",
        )

    def loop(self) -> Iterator[SettingReport]:
        """See that the controller itself has found its heater or its sensor broken."""
        error = self._word("loop_error")
        if error in (None, "none"):
            return
        yield self._report(
            "loop_error",
            Severity.REFUSE,
            f"the controller reports {error}: heat was given and the sensor did not follow",
            ("none", error),
            "look at heater and thermocouple, then clear it at the panel",
        )

    def input_error(self) -> Iterator[SettingReport]:
        """See a controller that goes on heating blindly."""
        choice, power_pct = self._word("input_error_power"), self._number("manual_power")
        fixed = choice == "user" and power_pct is not None
        if choice in (None, "off") or (fixed and power_pct is not None and power_pct <= 0):
            return
        how = f"at {power_pct:g} %" if fixed else "as it did last"
        yield self._report(
            "input_error_power",
            Severity.WARN,
            f'with a broken sensor it goes on heating, {how}: it is set to "{choice}"',
            ("off", choice),
            'say input_error_power = "off" in [devices.enforce]',
        )

    def ramp(self) -> Iterator[SettingReport]:
        """See a controller that takes its time to every setpoint, the safe one included."""
        action = self._word("ramp_action")
        if action not in ("setpoint_change", "both"):
            return
        yield self._report(
            "ramp_action",
            Severity.WARN,
            "it ramps by itself to each new setpoint, and so to the safe one as well: "
            f'it is set to "{action}"',
            ("off", action),
            'say ramp_action = "off" in [devices.enforce]',
        )

    def limits(self, use: OutputUse) -> Iterator[SettingReport]:
        """Hold the controller's own limits against what it will be told to do."""
        low, high = use.limits or (None, None)
        least, greatest = use.asked or (None, None)
        yield from self._bound("max_setpoint", use, 1, high, greatest, max(use.safe, default=None))
        yield from self._bound("min_setpoint", use, -1, low, least, min(use.safe, default=None))

    def _bound(
        self,
        name: str,
        use: OutputUse,
        sign: int,
        limit: float | None,
        asked: float | None,
        safe: float | None,
    ) -> Iterator[SettingReport]:
        """Report the worst of what lies beyond one limit: a safe value, the method, a channel."""
        own = self._number(name)
        for value, severity, whose in (
            (safe, Severity.REFUSE, f"the safe value of {use.channel} is"),
            (asked, Severity.REFUSE, f"the method takes {use.channel} to"),
            (limit, Severity.WARN, f"the profile's limits of {use.channel} go to"),
        ):
            if own is not None and value is not None and sign * (value - own) > 0.1:
                yield self._report(
                    name,
                    severity,
                    f"{whose} {value:g} degC, the device's own limit is {own:g} degC: "
                    "beyond it a setpoint is clamped or refused",
                    (value, own),
                    f"change the profile, or let [devices.enforce] set {name}",
                    "degC",
                )
                return

    def alarm(self, use: OutputUse) -> Iterator[SettingReport]:
        """See a method that will set the controller's own alarm off."""
        high, kind = self._number("alarm1_high"), self._word("alarm1_type")
        if use.asked is None or high is None or kind != "process" or use.asked[1] <= high:
            return
        if self._word("alarm1_sides") == "low":
            return
        yield self._report(
            "alarm1_high",
            Severity.WARN,
            f"the method takes {use.channel} to {use.asked[1]:g} degC, past the device's own alarm "
            f"at {high:g} degC",
            (use.asked[1], high),
            "know what that alarm switches, or set it higher",
            "degC",
        )

    def wear(self, use: OutputUse) -> Iterator[SettingReport]:
        """Count what a method would cost the memory of a controller that saves what it is told."""
        saving = self._found.get(SAVE, SettingFound(None)).value
        if saving is False:
            return
        count = use.changes(every_s=_SAVE_EVERY_S)
        surely = "saves" if saving else "may save"
        message = (
            f"it {surely} setpoints in its EEPROM, at most one in {_SAVE_EVERY_S:g} s; that is "
            f"rated for about {ENDURANCE} writes"
        )
        yield self._report(
            "eeprom_wear",
            Severity.WARN if count > 1 else Severity.INFO,
            f"{message}, and this method makes up to {count}" if count else message,
            (False, saving),
            f"say {SAVE} = false in [devices.enforce], if the controller takes it"
            if SAVE in self._found
            else "switch saving off at the controller, if it can be",
        )


def _plausible(number: float) -> bool:
    """Whether a setting could have this value in any unit."""
    return math.isfinite(number) and (number == 0 or _LEAST <= abs(number) <= _MOST)
