"""``capa.builtin.heat_flux_tune``: find the heater setpoints that give wanted heat fluxes."""

from capa.experiment.procedures.builtin.heat_flux_tune.config import HeatFluxTuneConfig
from capa.experiment.procedures.builtin.heat_flux_tune.tune import HeatFluxTune

__all__ = ["HeatFluxTune", "HeatFluxTuneConfig"]
