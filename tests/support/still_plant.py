"""A plant without physics: quantities stay where they were put, time moves when told."""

from collections.abc import Callable

__all__ = ["StillPlant"]


class StillPlant:
    """Implements ``capa.devices.twin.PlantPort``; ``advance`` runs the devices' own loops."""

    def __init__(self) -> None:
        self.quantities: dict[str, float] = {
            "furnace.pv_degC": 25.0,
            "furnace.power_pct": 0.0,
            "gas.setpoint_sccm": 0.0,
            "gas.flow_sccm": 0.0,
            "gas.pressure_psia": 14.62,
            "gas.temperature_degC": 21.89,
            "sample.mass_g": 0.5,
        }
        self._now_s = 0.0
        self._ticks: list[Callable[[float], None]] = []

    def now_s(self) -> float:
        return self._now_s

    def get(self, quantity: str) -> float:
        return self.quantities[quantity]

    def set(self, quantity: str, value: float) -> None:
        self.quantities[quantity] = value

    def on_tick(self, tick: Callable[[float], None]) -> None:
        self._ticks.append(tick)

    def advance(self, seconds: float, *, step_s: float = 0.1) -> None:
        for _ in range(round(seconds / step_s)):
            for tick in self._ticks:
                tick(step_s)
            self._now_s += step_s
