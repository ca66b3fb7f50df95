"""A plug-in that does what no plug-in may: it heats, then stops the loop for ever."""

from pathlib import Path

from tests.support.plugin_tree import install

__all__ = ["MARK", "blocking_experiment", "write_blocker"]

MARK = "/run/capad/blocked"
"""Where the plug-in says when it began to block, in ns of CLOCK_MONOTONIC."""

_SOURCE = f'''\
"""Heats, waits a moment, and blocks the loop."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import trio
from pydantic import BaseModel

from capa.experiment.procedures.base import Problem, Procedure, ProcedureContext

OUTPUTS = {{"heater.setpoint": 300.0, "purge.flow": 200.0, "vent.opening": 40.0}}


class Config(BaseModel):
    """How long it behaves, and whether it computes or sleeps when it blocks."""

    after_s: float = 0.0
    computes: bool = False


@dataclass
class Blocker(Procedure):
    """Blocks the loop."""

    id: ClassVar[str] = "drill.blocker"
    name: ClassVar[str] = "Blocker"
    version: ClassVar[str] = "1.0.0"
    config_model: ClassVar[type[BaseModel]] = Config
    required_capabilities: ClassVar[tuple[str, ...]] = ()
    required_channels: ClassVar[tuple] = ()
    uses_method: ClassVar[bool] = False

    after_s: float = 0.0
    computes: bool = False

    async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
        return []

    async def run(self, ctx: ProcedureContext) -> None:
        for channel, value in OUTPUTS.items():
            binding = ctx.instruments.resolve(channel).binding
            command = ctx.authorization.issue(
                kind=binding.command,
                target=channel,
                payload={{"value": value, "channel": channel, "device": binding.device}},
            )
            result = await ctx.dispatcher.dispatch(binding.device, command)
            assert result.accepted, result.detail
        await trio.sleep(self.after_s)
        Path("{MARK}").write_text(str(time.monotonic_ns()))
        while self.computes:
            pass
        time.sleep(3600)
'''


def write_blocker(site: Path) -> None:
    """Install the plug-in into a folder of its own."""
    install(
        site,
        "drill-blocker",
        {"drill_blocker.py": _SOURCE},
        {"drill.blocker": "drill_blocker:Blocker"},
    )


def blocking_experiment(*, after_s: float, computes: bool) -> str:
    """Return an experiment that runs it."""
    return f"""
hardware = "drill"
[procedure]
id = "drill.blocker"
[procedure.config]
after_s = {after_s:.3f}
computes = {str(computes).lower()}
"""
