"""Checks what a Sartorius balance is set to, as far as printed lines tell: unit, auto-print.

Nothing of it can be set by wire, so nothing is enforced. Auto-print ends when the balance is
asked for a line, which every poll does; it begins again with a key on the panel.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from adapters.sartorius.codec import Line, StatusLine, Weight
from adapters.sartorius.options import GRAMS_PER, SartoriusOptions
from capa.devices.link import Answer, Priority
from capa.devices.preflight import (
    OutputUse,
    SettingFound,
    SettingInfo,
    SettingReport,
    Severity,
)
from capa.devices.spec import DeviceSpec, SettingValue
from capa.errors import DeviceError

__all__ = ["SartoriusSettings", "settings_of"]

UNASKED = "unasked"

Print = Callable[[Priority], Awaitable[Answer[tuple[Line, str]]]]


def settings_of(spec: DeviceSpec) -> dict[str, SettingInfo]:
    """Return what can be checked of a balance; needs no link."""
    options = SartoriusOptions.model_validate(spec.options)
    infos = (
        SettingInfo(
            "unit",
            "text",
            choices=tuple(GRAMS_PER),
            assumed=options.unit,
            remedy="its menu, weight unit",
            description="as the last stable line had it",
        ),
        SettingInfo(
            "auto_print",
            "flag",
            assumed=False,
            otherwise=Severity.WARN,
            remedy="its menu, print parameter: manual, without stability",
            description="whether lines came unasked since the last look",
        ),
        SettingInfo("ready", "flag", assumed=True, remedy="switch it on, let it adjust"),
    )
    return {info.name: info for info in infos}


class SartoriusSettings:
    """The settings of one balance.

    Args:
        spec: the device.
        ask: has a line printed.
        counters: the driver's; ``unasked`` counts lines that nobody asked for.
    """

    def __init__(self, spec: DeviceSpec, ask: Print, counters: Mapping[str, int]) -> None:
        self._name = spec.name
        self._ask = ask
        self._counters = counters
        self._unasked = 0
        self._unit: str | None = None
        self.known: Mapping[str, SettingInfo] = settings_of(spec)

    async def read(self, names: Collection[str], *, priority: Priority) -> dict[str, SettingFound]:
        """Have one line printed, and look at what came unasked."""
        line, _ = (await self._ask(priority)).value
        if isinstance(line, Weight) and line.unit is not None:
            self._unit = line.unit
        before, self._unasked = self._unasked, self._counters.get(UNASKED, 0)
        silent = "" if self._unit else "it shows none while the weight is unstable"
        found = {
            "unit": SettingFound(self._unit, silent),
            "auto_print": SettingFound(self._unasked > before),
            "ready": SettingFound(not isinstance(line, StatusLine)),
        }
        return {name: one for name, one in found.items() if name in names}

    async def write(self, name: str, value: SettingValue, *, priority: Priority) -> SettingFound:
        """Refuse: a balance is set at its panel.

        Raises:
            DeviceError: always.
        """
        del value, priority
        raise DeviceError(f"{self._name}: {name} is set at the balance's own panel")

    def hazards(
        self, found: Mapping[str, SettingFound], uses: Sequence[OutputUse]
    ) -> Sequence[SettingReport]:
        """Know of none beyond what is expected."""
        del found, uses
        return ()
