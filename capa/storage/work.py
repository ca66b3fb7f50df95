"""One finalizing: the folder, the manifest as it grows, what is to be said about it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capa.storage.manifest import Manifest, write_manifest

__all__ = ["Work"]


@dataclass
class Work:
    """What the steps of finalizing share; ``rows`` is of the files that are tables."""

    path: Path
    manifest: Manifest
    notes: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    last_ns: int = 0
    """The time of the last record."""
    made_anew: bool = False
    """Whether the manifest is what could be saved of one that can't be read."""

    def __post_init__(self) -> None:
        self.notes = [*self.manifest.finalize_notes, *self.notes]  # those of a pass cut short

    def note(self, words: str) -> None:
        """Put something odd on record, once."""
        if words not in self.notes:
            self.notes.append(words)

    def update(self, **values: Any) -> None:  # noqa: ANN401 - the manifest checks them
        """Change the manifest, in memory."""
        self.manifest = Manifest.model_validate(self.manifest.model_dump() | values)

    def save(self) -> None:
        """Write the manifest, with the notes so far.

        Raises:
            OSError: the disk refuses; the old one is still there.
        """
        self.update(finalize_notes=tuple(dict.fromkeys(self.notes)))
        write_manifest(self.path, self.manifest)
