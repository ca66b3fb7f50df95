"""The gate's side door for settings: the same record, the same trips, no run needed.

A setting is no output, so no authorization is asked for: the profile, or the driver's own care,
is who wants it. It is on record before its first byte leaves, in the bundle of the run in
progress or else in the log.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, Protocol

from capa.devices.preflight import SettingFound, say
from capa.errors import CapaError, DeviceError
from capa.runtime.device_settings import SettingChange

__all__ = ["Recording", "SettingGate"]


class Recording(Protocol):
    """What is needed of the gate."""

    @property
    def trip(self) -> str:
        """Why nothing but safe values passes; empty when no trip is latched."""
        ...

    def record(
        self,
        kind: str,
        message: str,
        severity: Literal["info", "warning", "error"],
        metadata: Mapping[str, Any],
    ) -> None:
        """Write an event into the run's bundle; between runs, into the log."""
        ...

    async def committed(self) -> None:
        """Return once what was recorded survives the process; at once between runs."""
        ...


class SettingGate:
    """Lets changes of settings through; made by the gate.

    Args:
        gate: whose trips hold, and whose record is written.
    """

    def __init__(self, gate: Recording) -> None:
        self._gate = gate

    async def change(
        self, change: SettingChange, send: Callable[[], Awaitable[SettingFound]]
    ) -> SettingFound:
        """Record, send, read back, record; the proof is what then reads.

        Raises:
            DeviceError: a trip is latched, the record failed, or the device refused.
            LinkError, FrameError: the device could not be told.
        """
        if self._gate.trip:
            raise DeviceError(f"a trip is latched: {self._gate.trip}; clear it first")
        self._record("setting.intent", "info", change, {})
        try:
            await self._gate.committed()
        except CapaError as error:
            raise DeviceError(f"the change could not be put on record: {error}") from error
        try:
            found = await send()
        except CapaError as error:
            self._record("setting.result", "error", change, {"detail": str(error)})
            raise
        proven = found.value is not None and change.info.same(found.value, change.value)
        result = {"proven": proven, "readback": found.value, "detail": found.detail}
        self._record("setting.result", "info" if proven else "error", change, result)
        return found

    def _record(
        self,
        kind: str,
        severity: Literal["info", "error"],
        change: SettingChange,
        result: Mapping[str, Any],
    ) -> None:
        unit = change.info.unit
        message = (
            f"{change.device}: {change.info.name} from {say(change.before, unit)} "
            f"to {say(change.value, unit)}, wanted by {change.by}"
        )
        if result:
            reads = result.get("readback")
            message += f": reads {say(reads, unit)}" if "proven" in result else ""
            message += f" {result['detail']}" if result["detail"] else ""
        metadata = {
            "device": change.device,
            "setting": change.info.name,
            "before": change.before,
            "value": change.value,
            "wanted_by": change.by,
            **result,
        }
        self._gate.record(kind, message, severity, metadata)
