"""The safe state before READY=1, and before the links close."""

from collections.abc import Callable, Mapping

from capa.runtime.safe_state import ChannelVerdict, drive_safe_state
from capad.service import Bench, Service

__all__ = ["Safing"]

_SAFE_RETRY_S = 2.0
_ANSWER_WAIT_S = 1.0


class Safing:
    """Drives the safe state of an open rig while nothing runs on it.

    Args:
        service: the daemon.
        made_safe: takes note of the verdicts.
    """

    def __init__(
        self, service: Service, *, made_safe: Callable[[Mapping[str, ChannelVerdict]], None]
    ) -> None:
        self._service = service
        self._made_safe = made_safe

    async def become_safe(self, bench: Bench) -> bool:
        """Drive stage one until what must answer has answered for it; False when told to end."""
        service = self._service
        service.enter("STARTING", "driving the safe state")
        twin = ", simulated by twins" if service.options.twin else ""
        service.console.say(
            f"rig {bench.parts.profile.name} ({service.settings.rig.profile}){twin}"
        )
        while not service.stopping:
            await self._drive(bench)
            answering = await bench.rig.wait_answering(_ANSWER_WAIT_S)
            missing = self._missing(bench, answering)
            if not missing:
                self._say_silent(bench, answering)
                return True
            text = "waiting for " + ", ".join(
                f"{name} ({bench.rig.health(name).detail or 'safe state not proven'})"
                for name in missing
            )
            service.enter("STARTING", text)
            service.console.waiting(text)
            with service.woken(_SAFE_RETRY_S):
                await bench.rig.wait_answering(_SAFE_RETRY_S)
        return False

    async def _drive(self, bench: Bench) -> None:
        """Drive stage one and keep the verdicts."""
        service = self._service
        verdicts = await drive_safe_state(
            bench.rig,
            budget_s=service.settings.safety.safing_budget_s,
            on_write=bench.conductor.gate.note,
        )
        self._made_safe(verdicts)
        bench.monitor.judge(verdicts, latch=False)
        service.say_verdicts(verdicts)

    def _missing(self, bench: Bench, answering: Mapping[str, bool]) -> list[str]:
        """Return the required devices that are silent, or whose safe state is not reached."""
        required = {device.name for device in bench.parts.profile.devices if device.required}
        silent = {name for name in required if not answering.get(name, False)}
        return sorted(silent | (self._service.unsafe_devices(bench) & required))

    def _say_silent(self, bench: Bench, answering: Mapping[str, bool]) -> None:
        service = self._service
        for name, answers in answering.items():
            if not answers:
                detail = bench.rig.health(name).detail
                text = f"{name} does not answer ({detail}); it may be missing (required = false)"
                service.warn("device.missing", text, device=name)

    async def leave_safe(self, bench: Bench) -> None:
        """Before the links close: once more, and for the last time, the safe state."""
        service = self._service
        if service.stopping:
            service.enter("STOPPING", "driving the safe state")
        await self._drive(bench)
        left = await bench.stages.leave()
        if left and service.stopping and not service.options.twin:  # a twin ends with the process
            text = f"still due: {left}; the next start goes on with it, capad-guard does not"
            service.warn("safe_state.left", text)
        service.supervisor.refresh()
