"""Checks what a Mettler-Toledo balance is set to, as far as a weight tells: its unit.

A stream that somebody left on (``SIR``) ends with the first weight asked for; what came of it is
counted as ``foreign`` or ``doubled``, and asked about here.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from adapters.mettler.codec import Answer, ModuleFault, Weight
from adapters.mettler.options import GRAMS_PER, MettlerOptions
from capa.devices.link import Answer as LinkAnswer
from capa.devices.link import Priority
from capa.devices.preflight import (
    OutputUse,
    SettingFound,
    SettingInfo,
    SettingReport,
    Severity,
)
from capa.devices.spec import DeviceSpec, SettingValue
from capa.errors import DeviceError

__all__ = ["MettlerSettings", "settings_of"]

_UNASKED = ("foreign", "doubled")

Weigh = Callable[[Priority], Awaitable[LinkAnswer[Answer]]]


def settings_of(spec: DeviceSpec) -> dict[str, SettingInfo]:
    """Return what can be checked of a balance; needs no link."""
    options = MettlerOptions.model_validate(spec.options)
    infos = (
        SettingInfo(
            "unit",
            "text",
            choices=tuple(GRAMS_PER),
            assumed=options.unit,
            remedy="its menu, unit",
            description="as a weight has it",
        ),
        SettingInfo(
            "streams",
            "flag",
            assumed=False,
            otherwise=Severity.WARN,
            remedy="end what asks it with SIR; its menu, send continuously: off",
            description="whether lines came unasked since the last look",
        ),
        SettingInfo("weigh_module_ok", "flag", assumed=True, remedy="switch it off and on"),
    )
    return {info.name: info for info in infos}


class MettlerSettings:
    """The settings of one balance.

    Args:
        spec: the device.
        weigh: asks for a weight.
        counters: the driver's.
    """

    def __init__(self, spec: DeviceSpec, weigh: Weigh, counters: Mapping[str, int]) -> None:
        self._name = spec.name
        self._weigh = weigh
        self._counters = counters
        self._unasked = 0
        self.known: Mapping[str, SettingInfo] = settings_of(spec)

    async def read(self, names: Collection[str], *, priority: Priority) -> dict[str, SettingFound]:
        """Ask for one weight, and look at what came unasked."""
        reply = (await self._weigh(priority)).value
        before = self._unasked
        self._unasked = sum(self._counters.get(kind, 0) for kind in _UNASKED)
        weight = reply.value if isinstance(reply.value, Weight) else None
        found = {
            "unit": SettingFound(weight.unit) if weight else SettingFound(None, "no weight now"),
            "streams": SettingFound(self._unasked > before),
            "weigh_module_ok": SettingFound(not isinstance(reply.value, ModuleFault)),
        }
        return {name: one for name, one in found.items() if name in names}

    async def write(self, name: str, value: SettingValue, *, priority: Priority) -> SettingFound:
        """Refuse: a balance is set at its terminal.

        Raises:
            DeviceError: always.
        """
        del value, priority
        raise DeviceError(f"{self._name}: {name} is set at the balance's own terminal")

    def hazards(
        self, found: Mapping[str, SettingFound], uses: Sequence[OutputUse]
    ) -> Sequence[SettingReport]:
        """Know of none beyond what is expected."""
        del found, uses
        return ()
