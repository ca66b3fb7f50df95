"""Units, calibrations and bindings: how a device's number becomes a channel's, and back."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capa.channels.calibration import IDENTITY, Conversion, conversion_for
from capa.channels.registry import ChannelRegistry, UnknownChannelError
from capa.channels.spec import Calibration, ChannelSpec, IdentityCalibration, LinearCalibration
from capa.units import UnitError, compatible, difference_scale, scale_between
from tests.support.files import FAMILIES, bent, profile_of


def channel(unit: str, calibration: Calibration | None = None) -> ChannelSpec:
    return ChannelSpec(
        name="x", kind="other", unit=unit, calibration=calibration or IdentityCalibration()
    )


def linear(gain: float, offset: float) -> LinearCalibration:
    return LinearCalibration(kind="linear", gain=gain, offset=offset)


@pytest.mark.parametrize(
    ("unit", "other"),
    [
        ("degC", "degF"),
        ("degC", "K"),
        ("g", "mg"),
        ("psia", "kPa"),
        ("sccm", "slpm"),
        ("%", "1"),
        ("kW/m^2", "W/cm^2"),
        ("anything at all", "anything at all"),
    ],
)
def test_units_of_one_quantity_convert(unit: str, other: str) -> None:
    assert compatible(unit, other)
    assert compatible(other, unit)


@pytest.mark.parametrize(
    ("unit", "other"),
    [
        ("degC", "g"),
        ("sccm", "cm^3/min"),  # an amount of gas is no volume
        ("psig", "psia"),  # a gauge needs the barometer of the day
        ("g", "smoot flavour"),
        ("g", "g**"),
        ("g", "(("),
    ],
)
def test_units_of_different_quantities_do_not_convert(unit: str, other: str) -> None:
    assert not compatible(unit, other)
    with pytest.raises(UnitError):
        scale_between(unit, other)


def test_a_temperature_has_a_zero_and_a_difference_has_none() -> None:
    scale = scale_between("degF", "degC")
    assert scale.gain * 212 + scale.offset == pytest.approx(100.0)
    assert difference_scale("degC", "degF") == pytest.approx(1.8)
    assert difference_scale("degC/s", "K/s") == pytest.approx(1.0)


def test_equal_units_cost_nothing_and_change_nothing() -> None:
    assert conversion_for(channel("degC"), "degC") is IDENTITY


def test_a_calibration_works_in_the_channels_unit() -> None:
    conversion = conversion_for(channel("g", linear(2.0, 1.0)), "kg")
    assert conversion.to_channel(0.5) == pytest.approx(2.0 * 500.0 + 1.0)


def test_a_linear_calibration_bridges_units_that_do_not_convert() -> None:
    conversion = conversion_for(channel("kW/m^2", linear(10.0, 0.0)), "V")
    assert conversion.to_channel(0.5) == pytest.approx(5.0)
    with pytest.raises(UnitError):
        conversion_for(channel("kW/m^2"), "V")


@given(
    gain=st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3),
    offset=st.floats(-1e3, 1e3),
    value=st.floats(-1e4, 1e4),
)
def test_what_is_commanded_comes_back_as_it_was(gain: float, offset: float, value: float) -> None:
    conversion = Conversion(gain, offset)
    assert conversion.to_channel(conversion.to_device(value)) == pytest.approx(value, abs=1e-6)


def test_a_channel_may_read_one_field_and_command_another(tmp_path: Path) -> None:
    registry = ChannelRegistry.from_profile(profile_of(tmp_path), FAMILIES)
    binding = registry.resolve("purge.flow").binding
    assert binding is not None
    assert binding.device == "oven"
    assert (binding.field, binding.command) == ("flow", "set_flow")
    assert (binding.command_field, binding.tolerance) == ("flow_setpoint", 0.01)


def test_a_stated_tolerance_wins_over_the_devices_resolution(tmp_path: Path) -> None:
    text = bent('command = "set_flow"', 'command = "set_flow"\ntolerance = 2.5')
    registry = ChannelRegistry.from_profile(profile_of(tmp_path, text), FAMILIES)
    binding = registry.resolve("purge.flow").binding
    assert binding is not None
    assert binding.tolerance == 2.5


def test_a_tolerance_is_in_the_channels_unit(tmp_path: Path) -> None:
    text = bent('unit = "sccm"', 'unit = "slpm"')
    registry = ChannelRegistry.from_profile(profile_of(tmp_path, text), FAMILIES)
    binding = registry.resolve("purge.flow").binding
    assert binding is not None
    assert binding.tolerance == pytest.approx(1e-5)


def test_the_registry_knows_its_channels_in_the_profiles_order(tmp_path: Path) -> None:
    registry = ChannelRegistry.from_profile(profile_of(tmp_path), FAMILIES)
    assert registry.names[0] == "heater.setpoint"
    assert [c.name for c in registry.commandable] == ["heater.setpoint", "purge.flow"]
    assert [c.name for c in registry.derived] == ["mass_loss_fraction"]
    assert len(registry.by_device("oven")) == 4
    assert registry.by_device("nothing") == ()
    assert "heater.pv" in registry
    assert registry.resolve("mass_loss_fraction").binding is None


def test_an_unknown_channel_is_an_error_that_names_the_nearest(tmp_path: Path) -> None:
    registry = ChannelRegistry.from_profile(profile_of(tmp_path), FAMILIES)
    with pytest.raises(UnknownChannelError) as caught:
        registry.resolve("heater.setpt")
    assert (
        str(caught.value) == "no channel is called 'heater.setpt'; did you mean 'heater.setpoint'?"
    )
    assert isinstance(caught.value, KeyError)
