"""Checks what an Alicat device is set to: gas, units, full scale, who commands it, what it saves.

Sources: the command catalogue of alicatlib (LSS from firmware 10v05 on, 10 saves a minute as the
rate to warn at), captured replies to VE and FPF. Up to firmware 7v anything that begins with L
locks the display, so nothing is asked before the firmware is known.
"""

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

from adapters.alicat.codec import (
    Acknowledged,
    DataFrame,
    FrameReader,
    Rejected,
    encode_command,
    encode_poll,
)
from adapters.alicat.gases import GASES, gas_number
from adapters.alicat.options import AlicatOptions, unit_of
from capa.devices.link import Answer, Priority
from capa.devices.preflight import (
    OutputUse,
    SettingFound,
    SettingInfo,
    SettingReport,
    Severity,
    say,
)
from capa.devices.spec import DeviceSpec, SettingValue
from capa.errors import DeviceError, LinkTimeoutError

__all__ = ["AlicatSettings", "Ask", "settings_of"]

Reply = DataFrame | Acknowledged | Rejected

_MODERN = (10, 5)
_VERSION = re.compile(r"(?:GP)?(\d{1,2})v(\d{1,2})\S*")
_FULL_SCALE = re.compile(r"([+-]?\d+(?:\.\d+)?) +\d{1,3} +(\S+)")
_SOURCES = {"S": "serial", "U": "unsaved", "A": "analog"}
_HOLDS = {"HLD": "held", "EXH": "exhaust"}
_SAVES_PER_MIN = 10.0


class Ask(Protocol):
    """The driver's way to its link."""

    def __call__(
        self, request: bytes, decode: Callable[[bytes], Reply], priority: Priority
    ) -> Awaitable[Answer[Reply]]:
        """Send a line, and decode the one that comes back."""
        ...


def settings_of(spec: DeviceSpec) -> dict[str, SettingInfo]:
    """Return what can be checked of a device; needs no link."""
    options = AlicatOptions.model_validate(spec.options)
    given = options.model_fields_set
    infos = (
        SettingInfo(
            "gas",
            "text",
            choices=(*GASES.values(), *options.mixtures),
            writable=True,
            assumed=options.gas,
            remedy="its menu, gas select",
            description="what its flow is reckoned for",
        ),
        SettingInfo(
            "flow_unit",
            "text",
            assumed=options.flow_unit,
            remedy="its menu, units",
            description="unit of flow and setpoint on the wire, such as sccm",
        ),
        SettingInfo(
            "full_scale",
            "number",
            unit=options.flow_unit,
            tolerance=0.005 * options.full_scale,
            assumed=options.full_scale if "full_scale" in given else None,
            description="the most it controls; firmware 10v05 on tells",
        ),
        SettingInfo(
            "setpoint_source",
            "text",
            choices=tuple(_SOURCES.values()),
            writable=True,
            remedy="its menu, setpoint source",
            description="serial saves each setpoint, unsaved does not, analog ignores the wire",
        ),
        SettingInfo("valve", "text", choices=("controls", *_HOLDS.values())),
        SettingInfo("firmware", "text", description="as VE has it, such as 10v20.0-R24"),
    )
    return {info.name: info for info in infos}


class AlicatSettings:
    """The settings of one device.

    Args:
        spec: the device.
        reader: its data frames.
        ask: the driver's way to its link.
    """

    def __init__(self, spec: DeviceSpec, reader: FrameReader, ask: Ask) -> None:
        self._name = spec.name
        self._options = AlicatOptions.model_validate(spec.options)
        self._unit = unit_of(spec)
        self._reader = reader
        self._ask = ask
        self._tells_version = True
        self._version: tuple[int, int] | None = None
        self.known: Mapping[str, SettingInfo] = settings_of(spec)
        self.source: str | None = None
        """Who commands it, when last asked; None while that is unknown."""

    @property
    def saves(self) -> bool:
        """Whether a setpoint that is written may cost its memory a write."""
        return self.source in (None, "serial")

    async def read(self, names: Collection[str], *, priority: Priority) -> dict[str, SettingFound]:
        """Read a data frame and, where the firmware tells more, what it tells."""
        found: dict[str, SettingFound] = {}
        if {"gas", "valve"} & set(names):
            frame = await self._frame(priority)
            found["gas"] = SettingFound(frame.gas)
            found["valve"] = SettingFound(
                next((word for code, word in _HOLDS.items() if code in frame.codes), "controls")
            )
        if {"firmware", "setpoint_source", "flow_unit", "full_scale"} & set(names):
            found["firmware"] = await self._firmware(priority)
        if "setpoint_source" in names:
            found["setpoint_source"] = await self._source(priority)
        if {"flow_unit", "full_scale"} & set(names):
            found |= await self._scale(priority)
        return {name: one for name, one in found.items() if name in names}

    async def _frame(self, priority: Priority) -> DataFrame:
        reply = (await self._ask(encode_poll(self._unit), self._reader.decode_ack, priority)).value
        if not isinstance(reply, DataFrame):
            raise DeviceError(f"{self._name} answered a poll with {reply.text!r}")
        return reply

    async def _firmware(self, priority: Priority) -> SettingFound:
        """Ask for the version; some firmwares never answer, and are not asked again."""
        if not self._tells_version:
            return SettingFound(None, "VE is not answered")
        try:
            reply = await self._told("VE", priority)
        except LinkTimeoutError:
            self._tells_version = False
            return SettingFound(None, "VE is not answered")
        match = _VERSION.match(reply)
        if match is None:
            return SettingFound(None, f"VE is answered with {reply!r}")
        self._version = (int(match[1]), int(match[2]))
        return SettingFound(match[0])

    @property
    def _is_modern(self) -> bool:
        return self._version is not None and self._version >= _MODERN

    async def _source(self, priority: Priority) -> SettingFound:
        if not self._is_modern:
            return SettingFound(None, "firmware before 10v05 does not tell")
        reply = await self._told("LSS", priority)
        self.source = _SOURCES.get(reply)
        return SettingFound(self.source, "" if self.source else f"LSS is answered with {reply!r}")

    async def _scale(self, priority: Priority) -> dict[str, SettingFound]:
        if not self._is_modern:
            unknown = SettingFound(None, "firmware before 10v05 does not tell")
            return {"flow_unit": unknown, "full_scale": unknown}
        reply = await self._told("FPF 5", priority)
        match = _FULL_SCALE.fullmatch(reply)
        if match is None:
            unknown = SettingFound(None, f"FPF 5 is answered with {reply!r}")
            return {"flow_unit": unknown, "full_scale": unknown}
        return {
            "flow_unit": SettingFound(match[2].lower()),
            "full_scale": SettingFound(float(match[1])),
        }

    async def _told(self, text: str, priority: Priority, *, prefix: str = "") -> str:
        """Send a command; return what is said, whether that is an answer or not."""
        request = encode_command(self._unit, text, prefix=prefix)
        reply = (await self._ask(request, self._reader.decode_ack, priority)).value
        return reply.line if isinstance(reply, DataFrame) else reply.text

    async def write(self, name: str, value: SettingValue, *, priority: Priority) -> SettingFound:
        """Select the gas, or who commands it, and read back.

        Raises:
            DeviceError: it may not be written, or its firmware can't.
        """
        if self._version is None:
            await self._firmware(priority)
        command = self._command(name, value)
        await self._told(command, priority, prefix=self._options.write_prefix)
        return (await self.read({name}, priority=priority))[name]

    def _command(self, name: str, value: SettingValue) -> str:
        match name:
            case "gas":
                number = gas_number(str(value), self._options.mixtures)
                if number is None:
                    raise DeviceError(f"{self._name}: no gas is called {say(value)}")
                return f"{self._options.gas_command or ('GS' if self._is_modern else 'G')} {number}"
            case "setpoint_source" if self._is_modern:
                letter = next(key for key, word in _SOURCES.items() if word == value)
                return f"LSS {letter}"
            case "setpoint_source":
                raise DeviceError(f"{self._name}: firmware before 10v05 can't be told its source")
            case _:
                raise DeviceError(f"{self._name}: {name} is not written")

    # --- hazards --------------------------------------------------------------------------------

    def hazards(
        self, found: Mapping[str, SettingFound], uses: Sequence[OutputUse]
    ) -> Sequence[SettingReport]:
        """Judge who commands it, how far it goes, what the method would save."""
        flows = [use for use in uses if use.field == "setpoint"]
        values = {name: one.value for name, one in found.items()}
        reports: list[SettingReport | None] = []
        if flows:
            reports.append(self._analog(values))
        if flows and all(use.field != "hold" for use in uses):  # else the method's business
            reports.append(self._held(values))
        for use in flows:
            reports += [self._reach(values, use), self._wear(values, use)]
        return [report for report in reports if report is not None]

    def _analog(self, values: Mapping[str, SettingValue | None]) -> SettingReport | None:
        if values.get("setpoint_source") != "analog":
            return None
        return SettingReport(
            self._name,
            "setpoint_source",
            Severity.REFUSE,
            'the profile commands it by wire, the device has "analog": it would ignore every '
            "setpoint, and answer as if it did not",
            "serial",
            "analog",
            remedy='set it in its menu, or say setpoint_source = "unsaved" in [devices.enforce]',
        )

    def _held(self, values: Mapping[str, SettingValue | None]) -> SettingReport | None:
        valve = values.get("valve")
        if valve in (None, "controls"):
            return None
        return SettingReport(
            self._name,
            "valve",
            Severity.WARN,
            f'its valve is "{valve}": the flow does not follow its setpoint',
            "controls",
            valve,
            remedy="end the hold at its panel, or command hold = 0",
        )

    def _reach(
        self, values: Mapping[str, SettingValue | None], use: OutputUse
    ) -> SettingReport | None:
        full = values.get("full_scale")
        if not isinstance(full, float):
            return None
        for top, severity, whose in (
            (use.asked, Severity.REFUSE, f"the method takes {use.channel} to"),
            (use.limits, Severity.WARN, f"the profile's limits of {use.channel} go to"),
        ):
            if top is not None and top[1] > full * 1.005:
                return SettingReport(
                    self._name,
                    "full_scale",
                    severity,
                    f"{whose} {top[1]:g} {use.unit}, the device's full scale is {full:g} "
                    f"{use.unit}",
                    top[1],
                    full,
                    use.unit,
                    "stay within it",
                )
        return None

    def _wear(
        self, values: Mapping[str, SettingValue | None], use: OutputUse
    ) -> SettingReport | None:
        """Count what a method would have saved; the maker names no number that is too many."""
        source, step = values.get("setpoint_source"), 10.0**-self._options.setpoint_decimals
        if source in ("unsaved", "analog"):
            return None
        count = use.changes(step=step)
        per_min = round(use.busiest_per_min(step=step))
        if not count:
            return None
        surely = "saves" if source == "serial" else "may save"
        return SettingReport(
            self._name,
            "eeprom_wear",
            Severity.WARN if per_min > _SAVES_PER_MIN else Severity.INFO,
            f"it {surely} each setpoint in its EEPROM; this method makes up to {count}, "
            f"{per_min:g} a minute where it ramps, and more than {_SAVES_PER_MIN:g} a minute "
            "are too many",
            "unsaved",
            source,
            remedy='say setpoint_source = "unsaved" in [devices.enforce] (firmware 10v05 on), or '
            "let the method ramp in fewer steps",
        )
