"""``procedure.config`` of the heat-flux tune."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from capa.models import Flag, Number, Whole

__all__ = ["HeatFluxTuneConfig"]


class HeatFluxTuneConfig(BaseModel):
    """What to tune, on which channels, how finely, and when to give up.

    Temperatures are in degC and fluxes in kW/m^2, and so must the channels be.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    targets_kw_m2: tuple[Number, ...] = Field(
        min_length=1, max_length=50, description="Heat fluxes to find setpoints for, in order."
    )
    heater_channel: str = Field(
        default="heater.setpoint", description="The heater's setpoint: the one channel commanded."
    )
    heater_pv_channel: str = Field(
        default="heater.pv", description="The heater's measured temperature."
    )
    flux_channel: str = Field(default="flux.incident", description="The gauge's heat flux.")
    record_channels: tuple[str, ...] = Field(
        default=(), description="Channels to record besides the three above."
    )

    t_set_min_c: Number = Field(default=20.0, description="Lowest setpoint to command, degC.")
    t_set_max_c: Number = Field(description="Highest setpoint to command, degC.")
    initial_setpoint_c: Number | None = Field(
        default=None,
        description="Where the first target starts, degC; empty: from the radiative law.",
    )
    radiative_factor: Number = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Emissivity times view factor, for the first guess; measured from then on.",
    )
    ambient_c: Number = Field(
        default=23.0, gt=-273.15, description="Temperature of the gauge's cooling water, degC."
    )

    tolerance_kw_m2: Number = Field(
        default=0.5, ge=0, description="How far from the target is good enough, kW/m^2."
    )
    tolerance_rel: Number = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="The same as a share of the target; the larger of the two counts.",
    )

    window_s: Number = Field(
        default=60.0, gt=0, description="The span over which mean, noise and slope are taken."
    )
    min_samples: Whole = Field(
        default=10, ge=3, description="How many usable samples the window must hold."
    )
    max_noise_kw_m2: Number = Field(
        default=0.3, gt=0, description="Standard deviation about the line that is still steady."
    )
    max_slope_kw_m2_per_min: Number = Field(
        default=0.3, gt=0, description="Slope of the line that is still steady."
    )
    pv_band_c: Number | None = Field(
        default=10.0,
        gt=0,
        description="How near its setpoint the heater must be to be steady; empty: no matter.",
    )
    min_settle_s: Number = Field(
        default=30.0, ge=0, description="Samples this soon after a new setpoint do not count."
    )

    damping: Number = Field(
        default=0.9, gt=0, le=1, description="The share of a computed step that is taken."
    )
    max_step_c: Number = Field(
        default=100.0, gt=0, description="The largest correction of the setpoint, degC."
    )
    ramp_c_per_min: Number | None = Field(
        default=None, gt=0, description="How fast the setpoint moves; empty: at once."
    )

    settle_budget_s: Number = Field(
        default=1800.0, gt=0, description="How long a setpoint may take to become steady."
    )
    max_iterations: Whole = Field(
        default=8, ge=1, le=100, description="How many setpoints may be tried for a target."
    )
    session_budget_s: Number = Field(
        default=14400.0, gt=0, description="How long all targets together may take; pauses apart."
    )
    require_all: Flag = Field(
        default=True,
        description="Whether the run has crashed when any target was not reached.",
    )

    gauge_silence_s: Number = Field(
        default=5.0, gt=0, description="Abort when flux or heater say nothing usable for so long."
    )
    flux_limit_kw_m2: Number | None = Field(
        default=None, gt=0, description="Abort above this; empty: 1.5 times the largest target."
    )
    pv_limit_c: Number | None = Field(
        default=None, description="Abort above this heater temperature; empty: t_set_max_c + 50."
    )
    runaway_rise_kw_m2: Number = Field(
        default=3.0, gt=0, description="Abort when the flux rises so far after a lower setpoint."
    )
    runaway_after_s: Number = Field(
        default=30.0, ge=0, description="How long after a lower setpoint it may still rise."
    )

    artifact_dir: Path | None = Field(
        default=None,
        description="Folder for the dated result; relative to the folder that holds the runs; "
        "empty: 'tunes' there.",
    )
    end_setpoint_c: Number | None = Field(
        default=None,
        description="Setpoint to leave after the last target, degC; empty: none. The rig's safe "
        "state follows in any case.",
    )

    @property
    def flux_limit(self) -> float:
        """The flux above which the tune is aborted."""
        largest = max(self.targets_kw_m2)
        return 1.5 * largest if self.flux_limit_kw_m2 is None else self.flux_limit_kw_m2

    @property
    def pv_limit(self) -> float:
        """The heater temperature above which the tune is aborted."""
        return self.t_set_max_c + 50.0 if self.pv_limit_c is None else self.pv_limit_c

    def tolerance(self, target_kw_m2: float) -> float:
        """Return how far from a target is good enough."""
        return max(self.tolerance_kw_m2, self.tolerance_rel * target_kw_m2)

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        for target in self.targets_kw_m2:
            if target <= 0:
                raise ValueError(f"target {target:g} kW/m^2 is not more than 0")
            if self.tolerance(target) <= 0:
                raise ValueError("tolerance_kw_m2 and tolerance_rel are both 0; no flux is exact")
            if target >= self.flux_limit:
                raise ValueError(
                    f"target {target:g} kW/m^2 is not below flux_limit_kw_m2 = {self.flux_limit:g}"
                )
        if self.t_set_min_c >= self.t_set_max_c:
            raise ValueError(
                f"t_set_min_c = {self.t_set_min_c:g} is not below t_set_max_c = "
                f"{self.t_set_max_c:g}"
            )
        if self.pv_limit <= self.t_set_max_c:
            raise ValueError(
                f"pv_limit_c = {self.pv_limit:g} is not above t_set_max_c = {self.t_set_max_c:g}: "
                "the highest setpoint would abort the tune"
            )
        self._check_starts_and_times()
        return self

    def _check_starts_and_times(self) -> None:
        start = self.initial_setpoint_c
        if start is not None and not self.t_set_min_c <= start <= self.t_set_max_c:
            raise ValueError(
                f"initial_setpoint_c = {start:g} is outside t_set_min_c to t_set_max_c"
            )
        shortest_s = self.min_settle_s + self.window_s
        if self.settle_budget_s <= shortest_s:
            raise ValueError(
                f"settle_budget_s = {self.settle_budget_s:g} is too short: min_settle_s + window_s "
                f"alone take {shortest_s:g} s"
            )
