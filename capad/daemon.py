"""The daemon: one nursery, one rig at a time in it, one run at a time in that.

Signals, supervision and the spool live as long as the process; a rig lives until the profile is
read again; a run lives inside its rig, which is why a stop has links to travel on.
"""

import signal

import trio
from structlog.typing import FilteringBoundLogger

from capa.config.problems import ProblemsError
from capa.storage.atomic import clear_temporaries
from capad.console import Console
from capad.housekeeping import Housekeeping
from capad.lock import ServiceLock
from capad.opening import Opening
from capad.safing import Safing
from capad.service import Options, Service
from capad.settings import Settings
from capad.signals import listen
from capad.supervision import Notifier
from capad.wiring import Parts, find_plugins, load_parts
from capad.working import Working

__all__ = ["Daemon", "Options"]


class Daemon:
    """Everything between the command line and the rig; ``run`` returns the exit code."""

    def __init__(
        self,
        settings: Settings,
        options: Options,
        *,
        console: Console,
        notifier: Notifier,
        log: FilteringBoundLogger,
    ) -> None:
        service = self._service = Service(
            settings, options, console=console, notifier=notifier, log=log
        )
        self._opening = Opening(service, terminate=self._terminated)
        self._safing = Safing(service, made_safe=self._opening.made_safe)
        self._working = Working(service, reloaded=self._reloaded)
        self._next_parts: Parts | None = None

    async def run(self) -> int:
        """Serve until told to end, or with ``once`` until the spool is empty.

        Raises:
            ProblemsError (in groups): the profile can't be used, or the spool is taken.
        """
        service = self._service
        locks = [
            ServiceLock(service.settings.spool.root, "spool"),
            ServiceLock(service.settings.runs.root, "runs"),
        ]
        async with trio.open_nursery() as nursery:
            await nursery.start(
                listen,
                {
                    signal.SIGINT: self._interrupted,
                    signal.SIGTERM: self._terminated,
                    signal.SIGHUP: self._hung_up,
                },
            )
            nursery.start_soon(service.supervisor.run)
            parts = await trio.to_thread.run_sync(self._load)
            service.spool = self._working.make_spool(parts)
            service.safety.release = service.spool.release
            for lock in locks:
                await trio.to_thread.run_sync(lock.acquire)
                nursery.start_soon(lock.keep)
            await service.safety.load()
            nursery.start_soon(service.safety.run)
            nursery.start_soon(self._housekeeping().run)
            if await self._opening.take():
                await trio.to_thread.run_sync(self._clear_leftovers)
                await self._serve_on(nursery, parts)
            await service.safety.save()
            nursery.cancel_scope.cancel()
        for lock in locks:
            lock.release()
        return service.code if service.options.once else 0

    def _clear_leftovers(self) -> None:
        """Delete what was left half-written beside trips.json and safe_stages.json.

        Only once the rig is taken: until then ``capa run`` writes there, too.
        """
        settings = self._service.settings
        for folder in (settings.spool.root.parent, settings.runtime.dir / "twin"):
            clear_temporaries(folder)

    def _housekeeping(self) -> Housekeeping:
        service = self._service

        def idle() -> bool:
            # On a full disk what was interrupted can't be settled: room must be made before.
            return service.phase == "IDLE" and service.current is None

        return Housekeeping(service.settings.runs, idle=idle, log=service.log)

    def _interrupted(self) -> None:
        """SIGINT: abort the run and hold the queue; in a terminal with nothing running, end."""
        service = self._service
        if service.current is not None and service.bench is not None:
            service.bench.conductor.stop("SIGINT: an operator asked for an abort", by="SIGINT")
            service.abort = "aborted by SIGINT"
            service.console.say("aborting: the run is stopped and the rig made safe")
        elif service.options.interactive:
            self._terminated("Ctrl-C with nothing running")
        else:
            service.abort = "aborted by SIGINT"  # for a job on its way to be started
            service.wake()
            service.log.warning("signal.sigint", message="nothing runs; a queue is held")
        service.supervisor.refresh()

    def _terminated(self, reason: str = "SIGTERM: the service was asked to end") -> None:
        """SIGTERM: stop the run without a cooldown dwell, make safe, seal, exit."""
        service = self._service
        if service.current is not None and service.bench is not None:
            service.bench.conductor.stop(reason, by=reason.partition(":")[0])
            service.bench.conductor.stop(
                reason, by=reason.partition(":")[0]
            )  # the second one forgoes the dwell
        service.stopping = service.stopping or reason
        service.supervisor.stopping()
        service.wake()
        service.log.info("daemon.stopping", reason=reason)
        service.console.say(f"ending ({reason})")
        if service.current is None:
            service.enter("STOPPING", self._opening.busy or "making the rig safe")

    def _hung_up(self) -> None:
        """SIGHUP: read the profile again, once nothing runs."""
        service = self._service
        service.reload = True
        when = "when the run has ended" if service.current is not None else "now"
        service.log.info("profile.reload", message=f"the profile is read again {when}")
        service.wake()

    def _load(self) -> Parts:
        """Read the profile and settle which plug-ins may run; in a thread."""
        service = self._service
        return load_parts(service.settings.rig.profile, find_plugins(service.settings.plugins))

    async def _serve_on(self, nursery: trio.Nursery, parts: Parts) -> None:
        """Serve one rig after the other until told to end; the first is made safe in any case.

        Whoever drove it before may have died in the middle, and have left it hot.
        """
        service = self._service
        if self._opening.waited:  # for hours, perhaps: the profile may be another one by now
            parts = await self._read_again() or parts
        unsafe = not service.options.twin  # which ends with the process
        while unsafe or not service.stopping:
            unsafe = False
            await self._serve(nursery, parts)
            parts = self._next_parts or parts

    async def _serve(self, nursery: trio.Nursery, parts: Parts) -> None:
        """Open the rig, prove it safe, run jobs until the end or a new profile."""
        self._next_parts = None
        service = self._service
        async with self._opening.opened(parts) as bench, trio.open_nursery() as local:
            try:
                if not service.stopping and await self._safing.become_safe(bench):
                    await self._working.work(nursery, local, bench)
            finally:
                local.cancel_scope.cancel()
                budget_s = service.settings.safety.safing_budget_s + 1
                with trio.move_on_after(budget_s, shield=True):
                    await self._safing.leave_safe(bench)

    async def _reloaded(self) -> bool:
        """Read the profile again if asked to; True if the rig is to be opened anew."""
        service = self._service
        if not service.reload:
            return False
        service.supervisor.reloading()
        self._next_parts = await self._read_again()
        if self._next_parts is None:
            service.supervisor.ready()
            return False
        return True

    async def _read_again(self) -> Parts | None:
        """Read the profile again; None, and it is said, if the old one has to stay in force."""
        service = self._service
        service.reload = False
        try:
            return await trio.to_thread.run_sync(self._load)
        except ProblemsError as error:
            message = f"the old one stays in force: {error}"
            service.log.error("profile.rejected", message=message)  # noqa: TRY400 - no bug of ours
            service.console.say(f"the profile has problems, the old one stays in force:\n{error}")
            return None
