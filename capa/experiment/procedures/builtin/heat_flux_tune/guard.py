"""When must a tune be given up at once? Gauge silence and runaway; pure.

The rig's own alarms (``channels.alarms``) stand behind this and go further: they latch. These
limits are the tune's, narrower, and belong to what it is about to do.
"""

import math
from dataclasses import dataclass

from capa.channels.sample import Sample
from capa.experiment.procedures.builtin.heat_flux_tune.config import HeatFluxTuneConfig

__all__ = ["Guard"]


@dataclass(slots=True)
class _Lowered:
    """A setpoint that went down: when, and what the flux was."""

    at_s: float
    flux: float


class Guard:
    """Sees every sample and every command; ``trouble`` says what is wrong."""

    def __init__(self, config: HeatFluxTuneConfig, now_s: float) -> None:
        self._config = config
        self._usable_at_s = {config.flux_channel: now_s, config.heater_pv_channel: now_s}
        self._flux = math.nan
        self._pv = math.nan
        self._setpoint: float | None = None
        self._lowered: _Lowered | None = None

    def see(self, sample: Sample) -> None:
        """Take notice of a sample of flux or heater; an unusable one is no sign of life."""
        if not sample.usable or sample.channel not in self._usable_at_s:
            return
        self._usable_at_s[sample.channel] = sample.at_s
        if sample.channel == self._config.flux_channel:
            self._flux = sample.value
        else:
            self._pv = sample.value

    def commanded(self, setpoint_c: float, now_s: float) -> None:
        """Take notice of a setpoint: after a lower one, the flux must not rise for long."""
        last, self._setpoint = self._setpoint, setpoint_c
        if last is None or setpoint_c > last:
            self._lowered = None
        elif setpoint_c < last:
            self._lowered = _Lowered(now_s, self._flux)

    @property
    def pv_c(self) -> float:
        """The heater's temperature as last seen; NaN before that."""
        return self._pv

    @property
    def seen_all(self) -> bool:
        """Whether flux and heater have both been seen."""
        return not (math.isnan(self._flux) or math.isnan(self._pv))

    def silent_at_s(self) -> float:
        """Return the instant at which a channel has been silent for too long."""
        return min(self._usable_at_s.values()) + self._config.gauge_silence_s

    def trouble(self, now_s: float) -> str:
        """Return why the tune must be given up now; empty when nothing is wrong."""
        return self._silence(now_s) or self._beyond_limits() or self._rising(now_s)

    def _silence(self, now_s: float) -> str:
        for channel, at_s in self._usable_at_s.items():
            if now_s >= at_s + self._config.gauge_silence_s:
                return (
                    f"{channel}: no usable sample for {now_s - at_s:.1f} s (gauge_silence_s = "
                    f"{self._config.gauge_silence_s:g}); check the device behind the channel"
                )
        return ""

    def _beyond_limits(self) -> str:
        config = self._config
        if self._flux > config.flux_limit:
            return (
                f"runaway: {config.flux_channel} is {self._flux:.1f} kW/m^2, above the limit of "
                f"{config.flux_limit:g}"
            )
        if self._pv > config.pv_limit:
            return (
                f"runaway: {config.heater_pv_channel} is {self._pv:.0f} degC, above the limit of "
                f"{config.pv_limit:g}"
            )
        return ""

    def _rising(self, now_s: float) -> str:
        lowered, config = self._lowered, self._config
        if lowered is None or now_s - lowered.at_s < config.runaway_after_s:
            return ""
        if self._flux - lowered.flux <= config.runaway_rise_kw_m2:
            return ""
        return (
            f"runaway: {config.flux_channel} rose from {lowered.flux:.1f} to {self._flux:.1f} "
            f"kW/m^2 in the {now_s - lowered.at_s:.0f} s after {config.heater_channel} was lowered "
            f"to {self._setpoint or 0.0:.1f} degC; check the heater's relay and its controller"
        )
