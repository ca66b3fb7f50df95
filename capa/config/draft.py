"""A hardware profile of which some parts may be wrong: what the cross-checks look at."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from capa.channels.spec import ChannelSpec
from capa.config.explain import where_of
from capa.config.hardware import SafeStage
from capa.config.locate import Path
from capa.config.problems import Problem
from capa.config.reading import Source
from capa.devices.adapter import AdapterFamily, FieldInfo
from capa.devices.spec import DeviceSpec, LinkSpec

__all__ = ["Draft"]

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(slots=True)
class Draft:
    """The valid entries of each table by index, so that one bad entry hides no other problem."""

    source: Source
    links: dict[int, LinkSpec]
    devices: dict[int, DeviceSpec]
    channels: dict[int, ChannelSpec]
    stages: dict[int, SafeStage]
    families: Mapping[str, AdapterFamily]
    fields: dict[str, Mapping[str, FieldInfo]] = field(default_factory=dict)
    """The fields of each device by name; without the devices whose family refused them."""

    @classmethod
    def of(cls, source: Source, families: Mapping[str, AdapterFamily]) -> "Draft":
        """Keep what is valid of each table."""
        return cls(
            source,
            _valid(source, "links", LinkSpec),
            _valid(source, "devices", DeviceSpec),
            _valid(source, "channels", ChannelSpec),
            _valid(source, "safe_state", SafeStage),
            families,
        )

    def names(self, table: str) -> list[str]:
        """Return the names written in a table, also those of entries that are not valid."""
        return [name for _, name in self.named(table)]

    def named(self, table: str) -> Iterator[tuple[int, str]]:
        """Yield index and name of a table's entries."""
        for index, entry in enumerate(_entries(self.source, table)):
            name = entry.get("name") if isinstance(entry, dict) else None
            if isinstance(name, str):
                yield index, name

    def channel(self, name: str) -> ChannelSpec | None:
        """Return a valid channel by name."""
        return next((spec for spec in self.channels.values() if spec.name == name), None)

    def problem(
        self, code: str, path: Path, message: str, hint: str | None = None, *, blocking: bool = True
    ) -> Problem:
        """Make a problem at a place in the profile."""
        where = where_of(path, self.source.data)
        code = f"profile.{code}"
        return self.source.problem(code, path, message, hint=hint, where=where, blocking=blocking)


def _entries(source: Source, table: str) -> list[object]:
    entries = source.data.get(table)
    return entries if isinstance(entries, list) else []


def _valid(source: Source, table: str, model: type[ModelT]) -> dict[int, ModelT]:
    found = {}
    for index, entry in enumerate(_entries(source, table)):
        with suppress(ValidationError):  # explained with the profile as a whole
            found[index] = model.model_validate(entry)
    return found
