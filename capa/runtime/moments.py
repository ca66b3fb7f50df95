"""Instants that can be compared after a restart of the process, and after one of the box.

Within one boot the kernel's boot-time clock says how long ago something was, whatever was done
to the clock on the wall; over a reboot only the wall clock can, and one that went back says zero.
Where nobody may know which boot it is (a service whose ``/proc`` shows processes only, as
``ProcSubset=pid`` has it), the shorter of the two counts: a stage may come late, but not early.
"""

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from capa.clock import utc_now

__all__ = ["Moment", "moment_now"]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Moment:
    """An instant: the wall's, and seconds since a boot that has a name."""

    utc: datetime
    boot: str
    boot_s: float

    def until_s(self, later: "Moment") -> float:
        """Seconds from this instant to a later one; never negative."""
        booted_s = later.boot_s - self.boot_s
        if self.boot and self.boot == later.boot:
            return max(0.0, booted_s)
        wall_s = max(0.0, (later.utc - self.utc).total_seconds())
        known = self.boot and later.boot
        return wall_s if known or booted_s < 0 else min(wall_s, booted_s)


def moment_now() -> Moment:
    """Return the present instant."""
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return Moment(utc_now(), boot, time.clock_gettime(time.CLOCK_BOOTTIME))
