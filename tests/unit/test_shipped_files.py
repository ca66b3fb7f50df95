"""The profiles, methods and settings that ship: they load, and do what they are for."""

from pathlib import Path

import pytest

from capa.channels.registry import ChannelRegistry
from capa.config.check import check_method
from capa.config.hardware import HardwareProfile
from capa.config.load import inspect_profile, load_method
from capa.devices.registry import load_families

CONFIGS = Path(__file__).parents[2] / "configs"
PROFILES = sorted((CONFIGS / "hardware").glob("*.toml"))
PYROLYSIS = [path for path in PROFILES if path.stem in ("sim_capa", "demo")]
"""The rigs that the shipped methods are for: a furnace, purge gas and a balance."""
METHODS = sorted((CONFIGS / "methods").glob("*.method.toml"))
CHANNELS = {
    "heater.setpoint",
    "heater.pv",
    "heater.power",
    "purge.flow",
    "purge.pressure",
    "balance.mass",
    "balance.stable",
    "mass_loss_fraction",
}


def loaded(path: Path) -> HardwareProfile:
    profile, problems = inspect_profile(path)
    assert problems == []
    assert profile is not None
    return profile


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_every_profile_loads_without_a_warning(path: Path) -> None:
    assert loaded(path).name == path.stem


@pytest.mark.parametrize("path", PYROLYSIS, ids=lambda p: p.stem)
def test_the_rigs_for_pyrolysis_have_the_channels(path: Path) -> None:
    assert {channel.name for channel in loaded(path).channels} >= CHANNELS


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_every_binding_resolves_to_a_field_of_its_device(path: Path) -> None:
    registry = ChannelRegistry.from_profile(loaded(path), load_families())
    flow = registry.resolve("purge.flow").binding
    assert flow is not None
    assert (flow.field, flow.command_field) == ("flow", "setpoint")


@pytest.mark.parametrize("profile", PYROLYSIS, ids=lambda p: p.stem)
@pytest.mark.parametrize("method", METHODS, ids=lambda p: p.stem)
def test_every_method_fits_every_rig_for_pyrolysis(method: Path, profile: Path) -> None:
    assert check_method(load_method(method), loaded(profile)) == []


def test_the_demo_shows_what_it_is_meant_to_show() -> None:
    kinds = [step.kind for step in load_method(CONFIGS / "methods/demo.method.toml").steps]
    assert kinds == ["setpoint", "ramp", "hold", "acquire", "safe_shutdown"]


def test_the_specifications_methods_have_the_specifications_durations() -> None:
    methods = {path.name.split(".")[0]: load_method(path) for path in METHODS}
    assert methods["sim_capa_pyrolysis"].total_duration_s() == 600.0
    assert methods["ramp_then_soak"].total_duration_s() is None
