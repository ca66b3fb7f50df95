"""What the parts of the daemon share: what they were given, and what they know of each other.

Changed only in the loop's own thread, and nowhere with a checkpoint in between.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import trio
from structlog.typing import FilteringBoundLogger

from capa.runtime.conductor import Conductor
from capa.runtime.rig import Rig
from capa.runtime.safe_state import ChannelVerdict, Verdict, newest
from capa.runtime.safety_monitor import SafetyMonitor
from capa.runtime.stages import LaterStages
from capad.console import Console
from capad.guarding import Guarding
from capad.heartbeats import Heartbeats
from capad.safety_desk import SafetyDesk
from capad.settings import Settings
from capad.spool_folders import SpoolFolders
from capad.status import SafeRecord, Snapshot, status_line
from capad.supervision import Notifier, Supervisor
from capad.wiring import Parts

if TYPE_CHECKING:
    from capad.jobs import Job
    from capad.spool import Spool

__all__ = ["Bench", "Options", "Service"]


@dataclass(frozen=True, slots=True)
class Options:
    """What is decided per start: flags that are no settings, and who watches."""

    twin: bool = False
    once: bool = False
    interactive: bool = False
    """Whether Ctrl-C with nothing running ends the program."""


@dataclass(slots=True)
class Bench:
    """The rig in force and what conducts it."""

    parts: Parts
    rig: Rig
    conductor: Conductor
    monitor: SafetyMonitor
    stages: LaterStages
    waits_for_all: bool
    """Whether the next run waits for the last stage of the safe state."""

    def forbidding(self) -> dict[str, str]:
        """Return why nothing may be armed just now, by rule; trips apart."""
        found = self.monitor.forbidding()
        if self.waits_for_all and self.stages.due:
            found["safe state, later stages"] = f"the rig is being left safe: {self.stages.due}"
        return found


class Service:
    """One process of the daemon.

    ``phase`` and ``doing`` begin the status line; ``abort`` and ``stopping`` say why what runs,
    and the process, is to end, and are empty otherwise; ``safe`` is how the safe state was last
    driven; ``lost`` says what the service can't recover from; ``code`` is what ``--once`` returns.
    """

    def __init__(
        self,
        settings: Settings,
        options: Options,
        *,
        console: Console,
        notifier: Notifier,
        log: FilteringBoundLogger,
    ) -> None:
        self.settings = settings
        self.options = options
        self.console = console
        self.log = log
        self.folders = SpoolFolders(
            settings.spool.root, max_bytes=settings.spool.max_bytes, owners=settings.spool.owners
        )
        self.safety = SafetyDesk(settings, log=log)
        self.guarding = Guarding(settings.runtime.dir, log=log)
        self.heartbeats = Heartbeats()
        self.supervisor = Supervisor(
            notifier,
            self.heartbeats,
            status=self.status,
            needs_time=lambda: self.phase in ("STARTING", "STOPPING"),
            log=log,
        )
        self.phase = "STARTING"
        self.doing = f"reading {settings.rig.profile}"
        self.bench: Bench | None = None
        self.spool: Spool | None = None
        self.current: Job | None = None
        self._wait: trio.CancelScope | None = None
        self.stopping = ""
        self.abort = ""
        self.reload = False
        self.safe: SafeRecord | None = None
        self.lost: str | None = None
        self.code = 0

    @contextmanager
    def woken(self, within_s: float = math.inf) -> Iterator[None]:
        """Wait, in the block, for no longer than this, and no longer than until ``wake``."""
        with trio.move_on_after(within_s) as self._wait:
            try:
                yield
            finally:
                self._wait = None

    def wake(self) -> None:
        """Have the run loop look at what was set, if it is waiting."""
        if self._wait is not None:
            self._wait.cancel()

    def made_safe(self, verdicts: Mapping[str, ChannelVerdict]) -> None:
        """Take note of how the safe state ended; of each output, what was seen last counts."""
        known = {} if self.safe is None else self.safe.verdicts
        self.safe = SafeRecord(newest(verdicts, known), datetime.now().astimezone())

    def unsafe_devices(self, bench: Bench) -> set[str]:
        """Return the devices with an output that was not brought to its safe value."""
        found = set()
        for name, verdict in self.verdicts().items():
            binding = bench.rig.registry.resolve(name).binding
            if verdict.verdict is Verdict.UNREACHABLE and binding is not None:
                found.add(binding.device)
        return found

    def say_verdicts(self, verdicts: Mapping[str, ChannelVerdict]) -> None:
        """Have the log say how a stage of the safe state ended."""
        for verdict in verdicts.values():
            bad = verdict.verdict is Verdict.UNREACHABLE
            (self.log.error if bad else self.log.info)(
                "safe_state.verdict",
                channel=verdict.channel,
                value=verdict.value,
                verdict=verdict.verdict.value,
                message=verdict.detail,
            )

    def verdicts(self) -> Mapping[str, ChannelVerdict]:
        """Return how each output was last brought to its safe value, by whichever stage."""
        first = self.safe.verdicts if self.safe else {}
        return {**first, **self.bench.stages.verdicts} if self.bench else first

    def blocked(self) -> bool:
        """Whether nothing may be armed: tripped, in alarm, a device silent or not known safe."""
        alarms = () if self.bench is None else self.bench.forbidding()
        tripped = self.safety.trips.latched
        unguarded = self.guarding.trouble
        return bool(self.stopping or self.reload or tripped or alarms or unguarded or self.silent())

    def silent(self) -> tuple[str, ...]:
        """Return the devices without which nothing is armed, and that do not answer just now."""
        bench = self.bench
        if bench is None:
            return ()
        needed = {device.name for device in bench.parts.profile.devices if device.required}
        for name in bench.rig.registry.names:
            resolved = bench.rig.registry.resolve(name)
            if resolved.binding is not None and resolved.spec.commandable:
                needed.add(resolved.binding.device)
        silent = {name for name in needed if not bench.rig.answers(name)}
        return tuple(sorted(silent | self.unsafe_devices(bench)))

    def warn(self, event: str, text: str, **keys: str) -> None:
        """Warn once: a person at the terminal, else the journal. A terminal shows warnings, too."""
        told = self.log.warning if self.console.is_silent else self.log.info
        told(event, message=text, **keys)
        self.console.say(text)

    def enter(self, phase: str, doing: str) -> None:
        """Begin another phase, and say so."""
        self.phase, self.doing = phase, doing
        self.supervisor.refresh()

    def status(self) -> str:
        """Return the status line."""
        spool, bench = self.spool, self.bench
        running = self.current is not None and bench is not None
        return status_line(
            Snapshot(
                phase="RUN" if running else self.phase,
                doing=self.doing,
                progress=bench.conductor.progress if running and bench else None,
                stop_reason=(self.abort or self.stopping) if running else "",
                held=None if spool is None else spool.held,
                hold_file="" if spool is None else str(spool.hold_file),
                queue=0 if spool is None else len(spool.queued),
                waits="" if spool is None else spool.waits,
                silent=self.silent() if self.phase != "STARTING" else (),
                trouble=self.lost
                or self.guarding.trouble
                or (None if spool is None else spool.trouble),
                unguarded=self.guarding.lacking,
                safe=None if self.safe is None else SafeRecord(self.verdicts(), self.safe.at),
                trip=self.safety.trips.text,
                alarms=() if bench is None else tuple(bench.monitor.raised.values()),
                cooling="" if bench is None else bench.stages.waiting,
            )
        )
