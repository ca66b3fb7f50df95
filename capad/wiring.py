"""The composition root: the only place that knows which concrete parts make up the daemon."""

from collections.abc import Callable

import trio
from structlog.typing import FilteringBoundLogger

from capa.experiment.procedures.available import Procedures
from capa.plugins.later import ProceduresLater
from capa.plugins.policy import policy
from capa.runtime.conductor import Conductor
from capa.runtime.gate import Gate
from capa.runtime.parts import Parts, load_parts, open_parts
from capa.runtime.progress import RunProgress
from capa.runtime.rig import Rig
from capa.runtime.safety_book import RuleBook
from capad.settings import PluginSettings, Settings

__all__ = ["Parts", "find_plugins", "load_parts", "make_conductor", "open_parts"]


def find_plugins(settings: PluginSettings) -> ProceduresLater:
    """Settle which procedures may run here; they are imported, and hashed, once somebody asks.

    Raises:
        PluginModeError: a mode that there is not.
    """
    policy(settings.mode, settings.lock)  # a slip in the mode is told now, not at the first run

    def load() -> Procedures:
        from capa.plugins.discovery import load_procedures

        return load_procedures(settings.mode, settings.lock)

    return ProceduresLater(load)


def make_conductor(
    rig: Rig,
    parts: Parts,
    settings: Settings,
    *,
    log: FilteringBoundLogger,
    on_progress: Callable[[RunProgress], None],
) -> Conductor:
    """Make what conducts runs on an open rig, by its gate and its safety rules."""
    gate = Gate(rig, log=log)
    rules = RuleBook.of(
        rig.profile, rig.registry, commanded=gate.commanded, now_s=trio.current_time()
    )
    return Conductor(
        rig,
        gate=gate,
        rules=rules,
        procedures=parts.procedures,
        runs_root=settings.runs.root,
        grace_s=settings.safety.grace_s,
        safing_budget_s=settings.safety.safing_budget_s,
        log=log,
        on_progress=on_progress,
    )
