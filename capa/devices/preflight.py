"""What an instrument is set to, against what its profile expects, before anything heats.

A controller that takes its numbers for Fahrenheit, whose own high limit is below what the method
asks for, or that saves every setpoint in a memory that wears: such hazards lie in settings, and
a family knows its own. A family that offers ``settings`` has them checked before each run, named
with both values (the profile's and the device's); those that the profile wants *enforced* are
written, read back, and proven, whenever they differ and each time the device was opened.

Values are ``true``/``false``, a number in the setting's unit, or one of its words.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable

from capa.devices.link import Priority
from capa.devices.spec import DeviceSpec, SettingValue

__all__ = [
    "DeclaresSettings",
    "DeviceSettings",
    "HasSettings",
    "OutputUse",
    "SettingFound",
    "SettingInfo",
    "SettingReport",
    "Severity",
    "Sweep",
    "say",
]


class Severity(StrEnum):
    """What a report means for arming. Only ``REFUSE`` stands against it."""

    OK = "ok"
    INFO = "info"
    WARN = "warn"
    REFUSE = "refuse"


def say(value: SettingValue | None, unit: str = "") -> str:
    """Write a setting's value as a profile would."""
    match value:
        case None:
            return "unknown"
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value}"'
        case _:
            return f"{value:g} {unit}".strip()


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """One setting that a family can read.

    ``assumed`` is what the driver relies on although no profile says so (None: nothing); with
    ``kept`` it is also written whenever the device was opened. ``otherwise`` is how bad it is if
    an assumption fails; a profile's own expectation refuses unless it says ``otherwise``.
    """

    name: str
    kind: Literal["number", "text", "flag"]
    unit: str = ""
    choices: tuple[str, ...] = ()
    tolerance: float = 0.0
    writable: bool = False
    assumed: SettingValue | None = None
    kept: bool = False
    otherwise: Severity = Severity.REFUSE
    field: str = ""
    """The field by which a method may command it, if there is one: then nobody keeps it."""
    reported: bool = True
    """Whether it is read and reported where nobody expects anything of it."""
    remedy: str = ""
    """Where it is set at the device, for a person in front of it."""
    description: str = ""

    def misfit(self, value: SettingValue) -> str:
        """Say why a value can't be this setting's; empty if it can."""
        match self.kind:
            case "flag" if not isinstance(value, bool):
                return f"must be true or false, not {say(value)}"
            case "text" if not isinstance(value, str):
                return f"must be text in quotes, not {say(value)}"
            case "number" if isinstance(value, bool | str):
                return f"must be a number, not {say(value)}"
            case _:
                pass
        if self.choices and value not in self.choices:
            return f"can't be {say(value)}"
        return ""

    def same(self, one: SettingValue, other: SettingValue) -> bool:
        """Whether two values of it are as good as equal."""
        if isinstance(one, str) or isinstance(other, str):
            return one == other
        return abs(one - other) <= self.tolerance


@dataclass(frozen=True, slots=True)
class SettingFound:
    """What a device says of a setting; ``value`` is None where it can't be read, and why."""

    value: SettingValue | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SettingReport:
    """One setting, judged. ``expected`` is None where nobody expects anything of it.

    ``written`` says that it was changed to what was expected, and read back so.
    """

    device: str
    setting: str
    severity: Severity
    message: str
    expected: SettingValue | None = None
    found: SettingValue | None = None
    unit: str = ""
    remedy: str = ""
    written: bool = False

    def __str__(self) -> str:
        """One line a person can act on."""
        text = f"{self.device}, {self.setting}: {self.message}"
        return f"{text}; {self.remedy}" if self.remedy else text


@dataclass(frozen=True, slots=True)
class Sweep:
    """One change of an output that a method makes: a jump (``ticks`` 1) or a ramp."""

    span: float
    duration_s: float = 0.0
    ticks: int = 1


@dataclass(frozen=True, slots=True)
class OutputUse:
    """What a rig does with one output of a device; numbers are in the field's own unit.

    ``limits`` are the channel's, ``safe`` the values of the safe state, ``asked`` the least and
    the greatest value that the method to come commands, as far as that can be told beforehand.
    """

    channel: str
    field: str
    unit: str
    limits: tuple[float, float] | None = None
    safe: tuple[float, ...] = ()
    asked: tuple[float, float] | None = None
    sweeps: tuple[Sweep, ...] = ()

    def changes(self, *, every_s: float = 0.0, step: float = 0.0) -> int:
        """Count how often the method changes it.

        Args:
            every_s: changes closer together than this count as one.
            step: changes smaller than this are none: the least step that the device can be told.
        """
        return sum(_count(sweep, every_s, step) for sweep in self.sweeps)

    def busiest_per_min(self, *, step: float = 0.0) -> float:
        """Return how often a minute it is changed in the busiest ramp; 0 without any."""
        ramps = (sweep for sweep in self.sweeps if sweep.duration_s > 0)
        rates = (60.0 * _count(one, 0.0, step) / max(one.duration_s, 60.0) for one in ramps)
        return max(rates, default=0.0)


def _count(sweep: Sweep, every_s: float, step: float) -> int:
    count = float(sweep.ticks)
    if every_s > 0:
        count = min(count, sweep.duration_s // every_s + 1)
    if step > 0:
        count = min(count, abs(sweep.span) / step + 1)
    return max(1, int(count))


class DeviceSettings(Protocol):
    """The settings of one device: read together, written one by one."""

    @property
    def known(self) -> Mapping[str, SettingInfo]:
        """All settings that this device may have, by name."""
        ...

    async def read(
        self, names: Collection[str], *, priority: Priority
    ) -> Mapping[str, SettingFound]:
        """Read these settings, in as few exchanges as it takes; changes nothing.

        A setting that this device has not, or will not tell, is found as None.

        Raises:
            LinkError, FrameError: the device could not be asked.
        """
        ...

    async def write(self, name: str, value: SettingValue, *, priority: Priority) -> SettingFound:
        """Write one setting, and return what it then reads.

        Raises:
            DeviceError: it can't be written, or the device refused.
            LinkError, FrameError: the device could not be told.
        """
        ...

    def hazards(
        self, found: Mapping[str, SettingFound], uses: Sequence[OutputUse]
    ) -> Sequence[SettingReport]:
        """Judge what equality can't: limits against limits, wear against a method's length.

        ``found`` has what could be read; settings that the profile expects something of are in
        it as well, and are judged by that already.
        """
        ...


@runtime_checkable
class HasSettings(Protocol):
    """A ``DeviceAdapter`` whose settings can be checked; optional."""

    @property
    def settings(self) -> DeviceSettings:
        """Its settings."""
        ...


@runtime_checkable
class DeclaresSettings(Protocol):
    """An ``AdapterFamily`` that can say beforehand which settings a device has; optional.

    Without it a profile can't say ``[devices.expect]`` of such a device.
    """

    def settings(self, spec: DeviceSpec) -> Mapping[str, SettingInfo]:
        """Return the settings that such a device may have; needs no link.

        Raises:
            ValueError: ``spec.options`` do not fit the family.
        """
        ...
