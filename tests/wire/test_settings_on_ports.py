"""What instruments are set to, by real bytes on real ports: the twin as its own process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from capa.config.load import load_profile
from capa.devices.registry import load_connectors, load_families, load_link_class
from capa.runtime.conductor import Conductor
from capa.runtime.report import RunReport
from capa.runtime.rig import Rig, open_rig
from tests.support.engine import conductor, method, quiet_log, request
from tests.support.twin_process import TwinProcess, running_twin

PROFILE = """
name = "bench"

[[links]]
name = "heat"
port = "/dev/ttyUSB0"
baud = 38400
[[links]]
name = "gas"
port = "/dev/ttyUSB1"
baud = 19200

[[devices]]
name = "furnace"
adapter = "watlow"
link = "heat"
address = 1
{furnace}
[[devices]]
name = "purge"
adapter = "alicat"
link = "gas"
address = "A"
{purge}
[[channels]]
name = "heater.setpoint"
kind = "temperature"
unit = "degC"
device = "furnace"
field = "setpoint"
command = "set_setpoint"
limits = {{ min = 0.0, max = 700.0 }}
[[channels]]
name = "purge.flow"
kind = "flow"
unit = "sccm"
device = "purge"
field = "flow"
command = "set_setpoint"
limits = {{ min = 0.0, max = 400.0 }}

[[safe_state]]
set = {{ "heater.setpoint" = 20.0, "purge.flow" = 0.0 }}
"""
RUN = method(
    {
        "kind": "ramp",
        "target": {"name": "heater.setpoint"},
        "start_value": 40.0,
        "end_value": 60.0,
        "duration_s": 1.5,
    }
)


@asynccontextmanager
async def running(
    folder: Path, *, furnace: str = "", purge: str = ""
) -> AsyncIterator[tuple[TwinProcess, Rig, Conductor]]:
    file = folder / "bench.toml"
    file.write_text(PROFILE.format(furnace=furnace, purge=purge))
    with running_twin(file, folder / "twin") as twin:
        profile = load_profile(folder / "twin" / "profile.toml")
        async with open_rig(
            profile,
            families=load_families({"watlow", "alicat"}),
            link_class=load_link_class(),
            connectors=load_connectors({"serial"}),
            log=quiet_log(),
        ) as rig:
            answering = await rig.wait_answering(20.0)
            assert all(answering.values()), rig.health("furnace")
            yield twin, rig, conductor(rig, folder / "runs", threaded=True)


def sent(twin: TwinProcess, link: str) -> list[str]:
    return [each["hex"] for each in twin.wire(event="rx", link=link)]


def heating(twin: TwinProcess) -> list[str]:
    """Frames that write the heater's setpoint, register 2160, whoever sent them."""
    return [frame for frame in sent(twin, "heat") if frame.startswith("01100870")]


def texts(report: RunReport) -> str:
    return "\n".join(str(problem) for problem in report.problems)


LIMIT_OF_950 = "[devices.twin]\nregisters = { 2166 = 950.0 }"
OTHERWISE = [
    (
        f"expect = {{ max_setpoint = 750.0 }}\n{LIMIT_OF_950}",
        'expect = { gas = "N2" }\n[devices.twin]\ngas = "Ar"\nflow_unit = "slpm"',
        (
            "expects 750 degC, the device has 950 degC",
            'expects "N2", the device has "Ar"',
            'expects "sccm", the device has "slpm"',
        ),
    ),
    ("", '[devices.twin]\nsetpoint_source = "analog"', ('the device has "analog"',)),
]


@pytest.mark.parametrize(("furnace", "purge", "words"), OTHERWISE, ids=["limits", "source"])
async def test_an_instrument_set_otherwise_is_refused_and_nothing_heats(
    tmp_path: Path, furnace: str, purge: str, words: tuple[str, ...]
) -> None:
    async with running(tmp_path, furnace=furnace, purge=purge) as (twin, _, one):
        report = await one.run(request(RUN))
        assert report.run_status == "refused"
        assert [word for word in words if word not in texts(report)] == []
        assert heating(twin) == []
        assert [line for line in sent(twin, "gas") if line.startswith("4153")] == []


async def test_what_is_enforced_is_mended_on_the_wire_and_the_run_begins(tmp_path: Path) -> None:
    furnace = f"enforce = {{ max_setpoint = 750.0 }}\n{LIMIT_OF_950}"
    purge = (
        'enforce = { gas = "N2", setpoint_source = "unsaved" }\n'
        '[devices.options]\ngas = "N2"\n[devices.twin]\ngas = "Ar"'
    )
    async with running(tmp_path, furnace=furnace, purge=purge) as (twin, _, one):
        report = await one.run(request(RUN))
        assert report.run_status == "completed", texts(report)
        frames = sent(twin, "heat")
        limit = [at for at, frame in enumerate(frames) if frame.startswith("01100876")]
        heat = [at for at, frame in enumerate(frames) if frame.startswith("01100870")]
        assert len(limit) == 1
        assert limit[0] < heat[0]
        lines = [bytes.fromhex(line) for line in sent(twin, "gas")]
        assert lines.count(b"AGS 8\r") == 1
        assert lines.count(b"ALSS U\r") == 1
        assert twin.ask(memory=True)["memory"]["purge"] == 0


async def test_the_controllers_memory_is_spared_from_the_first_setpoint_on(tmp_path: Path) -> None:
    async with running(tmp_path) as (twin, _, one):
        report = await one.run(request(RUN))
        assert report.run_status == "completed", texts(report)
        frames = sent(twin, "heat")
        assert frames.index("010609be003baba1") < frames.index(heating(twin)[0])
        assert len(heating(twin)) >= 10
        assert twin.ask(memory=True)["memory"]["furnace"] == 0
        assert twin.wire(event="memory", link="heat") == []
