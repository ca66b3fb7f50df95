"""The physical plant behind simulated instruments, so that heat makes the sample lose mass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from adapters.twin.physics import (
    Furnace,
    FurnaceSettings,
    GasLine,
    GasSettings,
    Sample,
    SampleSettings,
    Thing,
)
from adapters.twin.settings import from_table
from capa.errors import CapaError

__all__ = ["Plant", "TwinSettings"]

KINDS: Final = ("furnace", "gas", "sample")


@dataclass(frozen=True, slots=True)
class TwinSettings:
    """The keys directly under ``[twin]``; beside them are the tables of the things."""

    step_s: float = 0.05
    speed: float = 1.0
    """Plant seconds per second of the clock."""
    idle_s: float = 0.03
    """Silence after which a half-received request is forgotten."""
    wire_timing: bool = False
    """Whether replies take the time that the link's baud rate says."""
    usb_latency_s: float = 0.0
    """The latency timer of a USB adapter: 0.016 in an FTDI from the factory, 0.001 in a tuned one;
    0 for none. A reply's last bytes wait for its next tick."""


class Plant:
    """Furnaces, gas lines and samples in one time, advanced in fixed steps.

    The result depends on the inputs and on time alone, not on how often anybody looks: whoever
    reads a quantity first brings the plant to the present, in whole steps.

    Args:
        table: the profile's ``[twin]``: ``TwinSettings``, and a table for each thing, named
            ``furnace``, ``gas`` or ``sample``, with a number behind it when there are several.
            There is always one of each; a thing without a table has the default settings.
        clock: seconds of any origin; None if only ``advance_to`` moves time.

    Raises:
        CapaError: a setting that does not fit.
    """

    def __init__(
        self, table: Mapping[str, Any], *, clock: Callable[[], float] | None = None
    ) -> None:
        own = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
        self.settings = from_table(TwinSettings, own, where="[twin]")
        self._tables = {key: each for key, each in table.items() if isinstance(each, Mapping)}
        self._dt_s = self.settings.step_s
        if self._dt_s <= 0:
            raise CapaError("[twin].step_s: must be more than 0")
        self._clock = clock
        self._started_at_s = clock() if clock is not None else 0.0
        self._steps = 0
        self._stepping = False
        self._ticks: list[Callable[[float], None]] = []
        self._things: dict[str, Thing] = {}
        for name in (*KINDS, *self._tables):
            self._thing(name)

    def now_s(self) -> float:
        """Seconds of plant time; within a tick, those of the step."""
        if self._stepping or self._clock is None:
            return self._steps * self._dt_s
        return (self._clock() - self._started_at_s) * self.settings.speed

    def get(self, quantity: str) -> float:
        """Return a quantity as it is now; ``KeyError`` if there is no such thing or quantity."""
        thing, _, name = quantity.partition(".")
        self._catch_up()
        return self._thing(thing).outputs[name]()

    def set(self, quantity: str, value: float) -> None:
        """Drive an input: ``furnace.power_pct``, ``gas.setpoint_sccm``; or meddle, for a test.

        Setting ``sample.mass_g`` puts in a fresh sample; setting ``furnace.temperature_degC``
        makes the furnace that hot at once, ``furnace.stuck_power_pct`` welds its relay.
        """
        thing, _, name = quantity.partition(".")
        self._catch_up()
        self._thing(thing).inputs[name](value)

    def on_tick(self, tick: Callable[[float], None]) -> None:
        """Have ``tick(dt_s)`` called before each integration step."""
        self._ticks.append(tick)

    def advance_to(self, t_s: float) -> None:
        """Step until less than one step is left to ``t_s`` of plant time."""
        if self._stepping:
            return
        dt_s = self._dt_s
        target = int(t_s / dt_s + 1e-9)
        self._stepping = True
        try:
            while self._steps < target:
                for tick in self._ticks:
                    tick(dt_s)
                for thing in self._things.values():
                    thing.step(dt_s)
                self._steps += 1
        finally:
            self._stepping = False

    def _catch_up(self) -> None:
        if self._clock is not None and not self._stepping:
            self.advance_to(self.now_s())

    def _thing(self, name: str) -> Thing:
        found = self._things.get(name)
        if found is None:
            found = self._make(name)
            # A new dict: the tick that asks for a thing may be running inside the loop over them.
            self._things = {**self._things, name: found}
        return found

    def _make(self, name: str) -> Thing:
        table, where = self._tables.get(name, {}), f"[twin.{name}]"
        match name.rstrip("0123456789"):
            case "furnace":
                return Furnace(from_table(FurnaceSettings, table, where=where), self._dt_s)
            case "gas":
                return GasLine(from_table(GasSettings, table, where=where), self._dt_s)
            case "sample":
                settings = from_table(SampleSettings, table, where=where)
                return Sample(settings, self._dt_s, self._furnace(settings.furnace, where))
            case _ if name in self._tables:
                raise CapaError(f"{where}: no such thing; name it after one of {', '.join(KINDS)}")
            case _:
                raise KeyError(name)

    def _furnace(self, name: str, where: str) -> Furnace:
        found = self._thing(name) if name.startswith("furnace") else None
        if not isinstance(found, Furnace):
            raise CapaError(f"{where}.furnace: {name!r} is not a furnace")
        return found
