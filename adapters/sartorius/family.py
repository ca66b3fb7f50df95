"""How the engine gets at this family."""

from collections.abc import Mapping, Sequence

from adapters.sartorius.adapter import SartoriusAdapter, fields_of
from adapters.sartorius.codec import CR_LF, PRINT, StatusLine, decode_line
from adapters.sartorius.options import SartoriusOptions
from adapters.sartorius.preflight import settings_of
from capa.devices.adapter import DeviceAdapter, FieldInfo
from capa.devices.link import Link
from capa.devices.poll_cost import ExchangeCost
from capa.devices.preflight import SettingInfo
from capa.devices.probing import LineSettings, Probe
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinDevice
from capa.errors import FrameError

__all__ = ["SartoriusFamily"]

_LINES = (
    LineSettings(9600, 8, "O"),
    LineSettings(19200, 8, "O"),
    LineSettings(9600),
    LineSettings(1200, 7, "O"),
    LineSettings(9600, 7, "O"),
)


class SartoriusFamily:
    """Sartorius balances that speak SBI; the entry point ``sartorius``."""

    name = "sartorius"
    title = "Sartorius balance (SBI)"

    def fields(self, spec: DeviceSpec) -> Mapping[str, FieldInfo]:
        """Return what a balance can tell and be told."""
        if spec.address is not None:
            raise ValueError(
                f"address = {spec.address!r}: an SBI balance has none; it is alone on its line"
            )
        return fields_of(SartoriusOptions.model_validate(spec.options))

    def settings(self, spec: DeviceSpec) -> Mapping[str, SettingInfo]:
        """Return what can be checked of such a balance."""
        return settings_of(spec)

    def create(self, spec: DeviceSpec, link: Link) -> DeviceAdapter:
        """Make the driver of one balance."""
        return SartoriusAdapter(spec, link)

    def twin(self, spec: DeviceSpec, plant: PlantPort) -> TwinDevice:
        """Make the simulator of one balance; imported only where it is wanted."""
        from adapters.sartorius.twin import make_twin

        return make_twin(spec, plant)

    def poll_cost(self, spec: DeviceSpec) -> Sequence[ExchangeCost]:
        """Return what ``ESC P`` costs, with a line of 22 characters, the longer of the two."""
        ends = 2 * SartoriusOptions.model_validate(spec.options).end_with_cr_lf
        return [ExchangeCost(2 + ends, 22)]

    def probes(self) -> Sequence[Probe]:
        """Return ``ESC P`` at each speed and parity that balances are set to."""
        return [
            Probe(
                line=line,
                address=None,
                request=PRINT,
                asks="one line of print (SBI ESC P)",
                recognise=_recognised,
                reply_s=0.5,
            )
            for line in _LINES
        ]


def _recognised(seen: bytes) -> str | None:
    line, end, _ = seen.partition(CR_LF)
    if not end:
        return None
    try:
        found = decode_line(line)
    except FrameError:
        return None
    shown = f' showing "{found.text}"' if isinstance(found, StatusLine) else ""
    return f"SBI balance, {len(line) + 2} characters{shown}"
