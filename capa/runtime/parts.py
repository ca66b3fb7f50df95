"""A profile and the code that it needs, found in the registries; what drives a rig starts here."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from capa.config.hardware import HardwareProfile
from capa.config.load import load_profile
from capa.devices.adapter import AdapterFamily
from capa.devices.link import Connector
from capa.devices.registry import LinkClass, load_connectors, load_families, load_link_class
from capa.experiment.procedures.base import Procedure
from capa.runtime.rig import Rig, open_rig

__all__ = ["Parts", "load_parts", "open_parts"]


@dataclass(frozen=True, slots=True)
class Parts:
    """A profile and the code that it needs, loaded."""

    profile: HardwareProfile
    profile_file: Path
    profile_text: str
    families: Mapping[str, AdapterFamily]
    connectors: Mapping[str, Connector]
    link_class: LinkClass
    procedures: Mapping[str, type[Procedure]]


def load_parts(profile_file: Path, procedures: Mapping[str, type[Procedure]]) -> Parts:
    """Load a profile, and the drivers and transports it takes. Blocks: imports.

    Raises:
        ProblemsError: everything that is wrong with the profile.
        CapaError: the installation is damaged.
    """
    profile = load_profile(profile_file)
    return Parts(
        profile=profile,
        profile_file=profile_file,
        profile_text=profile_file.read_text(encoding="utf-8"),
        families=load_families({device.adapter for device in profile.devices}),
        connectors=load_connectors({link.transport for link in profile.links}),
        link_class=load_link_class(),
        procedures=procedures,
    )


def open_parts(parts: Parts, *, log: FilteringBoundLogger) -> AbstractAsyncContextManager[Rig]:
    """Open the rig of a profile."""
    return open_rig(
        parts.profile,
        families=parts.families,
        link_class=parts.link_class,
        connectors=parts.connectors,
        log=log,
        profile_file=str(parts.profile_file),
    )
