"""What the daemon knows of its outputs: of each, what was seen last, whoever told it last."""

from pathlib import Path

import structlog

from capa.runtime.safe_state import ChannelVerdict, Verdict
from capad.console import Console
from capad.service import Options, Service
from capad.settings import load_settings
from capad.supervision import Notifier


def service(folder: Path) -> Service:
    return Service(
        load_settings(None, {"spool.root": folder / "spool", "runtime.dir": folder / "run"}),
        Options(),
        console=Console(None),
        notifier=Notifier({}),
        log=structlog.get_logger(),
    )


def heater(verdict: Verdict, at_s: float) -> dict[str, ChannelVerdict]:
    name = "heater.setpoint"
    return {name: ChannelVerdict(name, 20.0, verdict, 20.0, "as told", at_s)}


def test_what_the_monitor_reached_while_a_run_was_sealed_is_not_forgotten(tmp_path: Path) -> None:
    """Else nothing would be armed for ever: the output is safe, and nobody drives it again."""
    known = service(tmp_path)
    known.made_safe(heater(Verdict.PROVEN, 7.0))
    known.made_safe(heater(Verdict.UNREACHABLE, 5.0))  # the run's own, told when it was sealed
    assert known.verdicts()["heater.setpoint"].verdict is Verdict.PROVEN


def test_an_output_that_was_lost_later_counts_as_lost(tmp_path: Path) -> None:
    known = service(tmp_path)
    known.made_safe(heater(Verdict.PROVEN, 5.0))
    known.made_safe(heater(Verdict.UNREACHABLE, 7.0))
    assert known.verdicts()["heater.setpoint"].verdict is Verdict.UNREACHABLE
