"""Channel names, resolved: which device and field a channel is, and how its numbers convert."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from capa.channels.calibration import IDENTITY, Conversion, conversion_for
from capa.channels.spec import ChannelSpec
from capa.errors import CapaError

if TYPE_CHECKING:  # the layers above name the shapes; nothing of them is loaded here
    from capa.config.hardware import HardwareProfile
    from capa.devices.adapter import AdapterFamily, FieldInfo

__all__ = ["Binding", "ChannelRegistry", "ResolvedChannel", "UnknownChannelError"]

_LEAST_TOLERANCE = 1e-6


class UnknownChannelError(CapaError, KeyError):
    """A name that no channel of the profile has."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        """Say the name and the nearest one that exists."""
        close = get_close_matches(name, list(known), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        self.text = f"no channel is called '{name}'{hint}"
        super().__init__(self.text)
        self.name = name

    def __str__(self) -> str:
        """Return the sentence, which ``KeyError`` would show in quotes."""
        return self.text


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a channel's values come from and where its commands go.

    ``field`` is read; ``command`` writes ``command_field``, which is also what proves a write.
    They differ where a channel shows what is measured (a flow) and commands what is wanted (its
    setpoint). ``tolerance`` is in the channel's unit.
    """

    device: str
    field: str
    command: str | None = None
    command_field: str | None = None
    conversion: Conversion = IDENTITY
    command_conversion: Conversion = IDENTITY
    tolerance: float = _LEAST_TOLERANCE
    reads_back: bool = True


@dataclass(frozen=True, slots=True)
class ResolvedChannel:
    """A channel, and its binding unless it is derived from others."""

    name: str
    spec: ChannelSpec
    binding: Binding | None = None


class ChannelRegistry:
    """Every channel of a profile by name; built once, never changed."""

    def __init__(self, channels: Sequence[ResolvedChannel]) -> None:
        self._by_name = {channel.name: channel for channel in channels}
        self._by_device: dict[str, tuple[ResolvedChannel, ...]] = {}
        for channel in channels:
            if channel.binding is not None:
                device = channel.binding.device
                self._by_device[device] = (*self._by_device.get(device, ()), channel)

    @classmethod
    def from_profile(
        cls, profile: "HardwareProfile", families: "Mapping[str, AdapterFamily]"
    ) -> "ChannelRegistry":
        """Resolve a profile's channels against the fields that its devices' families state.

        Raises:
            KeyError: a family, device or field that does not exist: the profile was not checked.
            ValueError: options that a family refuses.
        """
        fields = {d.name: families[d.adapter].fields(d) for d in profile.devices}
        return cls([ResolvedChannel(c.name, c, _bound(c, fields)) for c in profile.channels])

    @property
    def names(self) -> tuple[str, ...]:
        """Every channel's name, in the profile's order."""
        return tuple(self._by_name)

    @property
    def derived(self) -> tuple[ResolvedChannel, ...]:
        """The channels computed from others."""
        return tuple(c for c in self._by_name.values() if c.spec.derived is not None)

    @property
    def commandable(self) -> tuple[ResolvedChannel, ...]:
        """The channels that a command changes."""
        return tuple(c for c in self._by_name.values() if c.spec.commandable)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def resolve(self, name: str) -> ResolvedChannel:
        """Return a channel by name.

        Raises:
            UnknownChannelError: no such channel; names the nearest.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise UnknownChannelError(name, self._by_name) from None

    def by_device(self, device: str) -> tuple[ResolvedChannel, ...]:
        """Return the channels bound to a device, in the profile's order."""
        return self._by_device.get(device, ())


def _bound(spec: ChannelSpec, fields: "Mapping[str, Mapping[str, FieldInfo]]") -> Binding | None:
    if spec.derived is not None or spec.device is None or spec.field is None:
        return None
    known = fields[spec.device]
    read = known[spec.field]
    conversion = conversion_for(spec, read.unit)
    if spec.command is None:
        return Binding(spec.device, spec.field, conversion=conversion)
    written = next(field for field in known.values() if field.command == spec.command)
    command_conversion = conversion_for(spec, written.unit)
    return Binding(
        device=spec.device,
        field=spec.field,
        command=spec.command,
        command_field=written.name,
        conversion=conversion,
        command_conversion=command_conversion,
        tolerance=_tolerance(spec, written, command_conversion),
        reads_back=written.reads_back,
    )


def _tolerance(spec: ChannelSpec, written: "FieldInfo", conversion: Conversion) -> float:
    if spec.tolerance is not None:
        return spec.tolerance
    return max(written.resolution * abs(conversion.gain), _LEAST_TOLERANCE)
