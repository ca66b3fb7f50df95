"""How the engine gets at this family."""

from collections.abc import Mapping, Sequence

from adapters.mettler.adapter import FIELDS, MettlerAdapter
from adapters.mettler.codec import CR_LF, Answer, decode_reply, encode_command
from adapters.mettler.options import MettlerOptions
from adapters.mettler.preflight import settings_of
from capa.devices.adapter import DeviceAdapter, FieldInfo
from capa.devices.link import Link
from capa.devices.poll_cost import ExchangeCost
from capa.devices.preflight import SettingInfo
from capa.devices.probing import LineSettings, Probe
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinDevice
from capa.errors import FrameError

__all__ = ["MettlerFamily"]

_SPEEDS = (9600, 19200, 38400, 2400, 4800)
_REPLY_S = 0.005


class MettlerFamily:
    """Mettler-Toledo balances that speak MT-SICS; the entry point ``mettler``."""

    name = "mettler"
    title = "Mettler-Toledo balance (MT-SICS)"

    def fields(self, spec: DeviceSpec) -> Mapping[str, FieldInfo]:
        """Return what a balance can tell and be told."""
        if spec.address is not None:
            raise ValueError(
                f"address = {spec.address!r}: an MT-SICS balance has none; it is alone on its line"
            )
        MettlerOptions.model_validate(spec.options)
        return FIELDS

    def settings(self, spec: DeviceSpec) -> Mapping[str, SettingInfo]:
        """Return what can be checked of such a balance."""
        return settings_of(spec)

    def create(self, spec: DeviceSpec, link: Link) -> DeviceAdapter:
        """Make the driver of one balance."""
        return MettlerAdapter(spec, link)

    def twin(self, spec: DeviceSpec, plant: PlantPort) -> TwinDevice:
        """Make the simulator of one balance; imported only where it is wanted."""
        from adapters.mettler.twin import MettlerTwin

        return MettlerTwin(spec, plant)

    def poll_cost(self, spec: DeviceSpec) -> Sequence[ExchangeCost]:
        """Return what ``SI`` costs: 4 characters there, 18 back.

        The quickest of 116 captured exchanges took 3 ms more than its characters (WXS205SDU at
        9600 baud).
        """
        del spec
        return [ExchangeCost(4, 18, _REPLY_S)]

    def probes(self) -> Sequence[Probe]:
        """Return ``I2`` (type and capacity) at each speed that balances are set to."""
        return [
            Probe(
                line=LineSettings(baud),
                address=None,
                request=encode_command("I2"),
                asks="the balance's type (MT-SICS I2)",
                recognise=_recognised,
            )
            for baud in _SPEEDS
        ]


def _recognised(seen: bytes) -> str | None:
    line, end, _ = seen.partition(CR_LF)
    if not end:
        return None
    try:
        reply = decode_reply("I2", line)
    except FrameError:
        return None
    return reply.data.strip('"') or "MT-SICS balance" if isinstance(reply, Answer) else None
