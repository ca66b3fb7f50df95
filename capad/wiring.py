"""The composition root: the only place that knows which concrete parts make up the daemon."""

from collections.abc import Callable
from functools import partial

import trio
from structlog.typing import FilteringBoundLogger

from capa.plugins.later import ProceduresLater, procedures_under
from capa.plugins.policy import policy
from capa.runtime.conductor import Conductor
from capa.runtime.gate import Gate
from capa.runtime.parts import Parts, load_parts, open_parts
from capa.runtime.progress import RunProgress
from capa.runtime.rig import Rig
from capa.runtime.safety_book import RuleBook
from capa.storage.finalize import finalize_in_child
from capad.settings import PluginSettings, Settings

__all__ = ["Parts", "find_plugins", "load_parts", "make_conductor", "open_parts"]


def find_plugins(settings: PluginSettings) -> ProceduresLater:
    """Settle which procedures may run here; they are imported, and hashed, once somebody asks.

    Raises:
        PluginModeError: a mode that there is not.
    """
    deadline_s = settings.import_deadline_s
    return procedures_under(policy(settings.mode, settings.lock, import_deadline_s=deadline_s))


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
        rig.profile,
        rig.registry,
        commanded=gate.commanded,
        now_s=trio.current_time(),
        trouble=rig.trouble,
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
        finalize=partial(finalize_in_child, sign_key=settings.runs.sign_key),
    )
