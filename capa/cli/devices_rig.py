"""What the commands of ``capa devices`` share: profile, twin, lock, and the open devices."""

import fcntl
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from capa.config.hardware import HardwareProfile
from capa.config.load import load_profile
from capa.devices.session import OpenDevice, Tell, open_devices
from capa.devices.spec import DeviceSpec
from capa.errors import CapaError
from capa.runtime.parts import Parts, load_parts
from capa.runtime.twin_child import running_twin

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["Bench", "DaemonHoldsRigError", "no_daemon", "opened_bench", "quiet_log"]

LOCK_FILE = "capad.lock"
"""In the daemon's runtime directory; the guardian looks at the same file."""


class DaemonHoldsRigError(CapaError):
    """A daemon works on this box's instruments, and must not be spoken over."""


@contextmanager
def no_daemon(runtime_dir: Path) -> Iterator[None]:
    """Hold the daemon's lock, so that none works on the rig meanwhile.

    Where the directory is not there, or not ours to write, no daemon of this user works there, and
    the ports' own locks keep any other out.

    Raises:
        DaemonHoldsRigError: one does; its pid is named.
    """
    try:
        descriptor = os.open(runtime_dir / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise DaemonHoldsRigError(
            f"capad (pid {holder}) works on this rig, says {runtime_dir / LOCK_FILE}; stop it "
            "first (systemctl stop capad), or use --twin"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Bench:
    """A profile, loaded, whose ports are the real ones or a twin's."""

    parts: Parts
    source: str
    """``"rig"`` or ``"twin"``."""

    @property
    def profile(self) -> HardwareProfile:
        """The profile."""
        return self.parts.profile

    def device(self, name: str) -> DeviceSpec:
        """Return a device of the profile.

        Raises:
            CapaError: there is none of this name.
        """
        for device in self.profile.devices:
            if device.name == name:
                return device
        known = ", ".join(device.name for device in self.profile.devices)
        raise CapaError(f"no device is called {name!r}; there are: {known}")

    @asynccontextmanager
    async def devices(
        self, only: "Collection[str] | None" = None, tell: Tell | None = None
    ) -> AsyncIterator[Mapping[str, OpenDevice]]:
        """Open some devices, or all.

        Raises:
            CapaError: there is no such device.
        """
        for name in only or ():
            self.device(name)
        async with open_devices(
            self.profile.links,
            self.profile.devices,
            families=self.parts.families,
            connectors=self.parts.connectors,
            link_class=self.parts.link_class,
            only=only,
            tell=tell,
        ) as devices:
            yield devices


@asynccontextmanager
async def opened_bench(profile: Path, *, twin: bool, runtime_dir: Path) -> AsyncIterator[Bench]:
    """Load a profile; with ``twin``, simulate its instruments until the block ends.

    Raises:
        CapaError: the profile can't be used, the twin does not start, or a daemon has the rig.
    """
    parts = load_parts(profile, {})
    if not twin:
        with no_daemon(runtime_dir):
            yield Bench(parts, "rig")
        return
    with tempfile.TemporaryDirectory(prefix="capa-twin-") as scratch:
        async with running_twin(
            profile, Path(scratch), log=quiet_log(), on_death=_say_dead
        ) as simulated:
            yield Bench(replace(parts, profile=load_profile(simulated)), "twin")


def _say_dead(message: str) -> None:
    structlog.get_logger(__name__).error("twin.ended", message=message)


def quiet_log() -> "structlog.typing.FilteringBoundLogger":
    """Return a logger that only speaks up when something is wrong."""
    wrapper = structlog.make_filtering_bound_logger(logging.CRITICAL)
    log: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(), wrapper_class=wrapper
    )
    return log
