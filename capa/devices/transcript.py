r"""What passed on a link, as a text file: a recorder of truth, to be replayed to a driver.

One line each, after a head of ``# key: value`` lines::

    0.0000 @ poll                     what the driver was asked to do (open, poll)
    0.0021 > "A\r"                    bytes it sent: text in quotes, or hexadecimal
    0.0302 < "A +014.70 ..."          bytes that came back
    0.0303 = flow 12.5 ok             what the driver made of them: a reading
    0.0303 ! LinkTimeoutError         or the error that it raised

Times are seconds since the beginning. The file is for people, for version control and for tests.
"""

import ast
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from capa.devices.spec import DeviceSpec, LinkSpec
from capa.devices.tap import written_out
from capa.errors import CapaError

__all__ = ["ASKED", "HEARD", "MADE", "RAISED", "SENT", "Entry", "Transcript"]

VERSION = "1"
ASKED, SENT, HEARD, MADE, RAISED = "@", ">", "<", "=", "!"
_MARKS = frozenset({ASKED, SENT, HEARD, MADE, RAISED})


@dataclass(frozen=True, slots=True)
class Entry:
    """One line; ``data`` for bytes that passed, ``text`` for everything else."""

    at_s: float
    mark: str
    text: str = ""
    data: bytes = b""

    def __str__(self) -> str:
        """Return the line."""
        what = written_out(self.data) if self.mark in {SENT, HEARD} else self.text
        return f"{self.at_s:.4f} {self.mark} {what}"


@dataclass(frozen=True, slots=True)
class Transcript:
    """A recorded conversation with one device.

    ``source`` says what was recorded: ``"rig"``, or ``"twin"`` for what no instrument ever said.
    """

    link: LinkSpec
    device: DeviceSpec
    source: str
    entries: tuple[Entry, ...]
    notes: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the file's text."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"# capa transcript: {VERSION}"
        yield f"# source: {self.source}"
        yield from (f"# {key}: {value}" for key, value in self.notes.items())
        for key, spec in (("link", self.link), ("device", self.device)):
            table = spec.model_dump(mode="json", exclude_defaults=True)
            yield f"# {key}: {json.dumps(table)}"
        yield from map(str, self.entries)

    @classmethod
    def parse(cls, text: str, *, file: str = "transcript") -> "Transcript":
        """Read a file's text.

        Raises:
            CapaError: names the file, the line and what is wrong with it.
        """
        head: dict[str, str] = {}
        entries: list[Entry] = []
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                if line.startswith("#"):
                    key, _, value = line.removeprefix("#").partition(":")
                    head[key.strip()] = value.strip()
                elif line.strip():
                    entries.append(_entry(line))
            except (ValueError, SyntaxError) as error:
                raise CapaError(f"{file}:{number}: {line[:60]!r}: {error}") from error
        return cls._of(head, tuple(entries), file)

    @classmethod
    def _of(cls, head: dict[str, str], entries: tuple[Entry, ...], file: str) -> "Transcript":
        if head.pop("capa transcript", None) != VERSION:
            raise CapaError(f"{file}: not a transcript: its first line is no capa transcript: 1")
        try:
            link = LinkSpec.model_validate_json(head.pop("link"))
            device = DeviceSpec.model_validate_json(head.pop("device"))
            source = head.pop("source")
        except KeyError as error:
            raise CapaError(f"{file}: the head has no line {error}") from error
        except ValueError as error:
            raise CapaError(f"{file}: the head does not fit: {error}") from error
        return cls(link, device, source, entries, head)

    def bytes_of(self, mark: str) -> Iterable[bytes]:
        """Return every chunk that passed in one direction."""
        return (entry.data for entry in self.entries if entry.mark == mark)


def _entry(line: str) -> Entry:
    at, mark, *rest = line.split(" ", 2)
    what = rest[0] if rest else ""
    at_s = float(at)
    if mark not in _MARKS or not math.isfinite(at_s):
        raise ValueError(f"expected seconds, one of {' '.join(sorted(_MARKS))}, and what it was")
    if mark in {SENT, HEARD}:
        return Entry(at_s, mark, data=_bytes(what))
    return Entry(at_s, mark, text=what)


def _bytes(what: str) -> bytes:
    if what.startswith('"'):
        text = ast.literal_eval(what)
        if not isinstance(text, str):
            raise ValueError("expected one text in quotes")
        return text.encode("latin-1")
    return bytes.fromhex(what)
