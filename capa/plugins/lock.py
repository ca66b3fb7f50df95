"""``plugins.lock``: what has been trusted; and its journal: by whom, when and why.

The journal is written before the lock, so that nothing is ever trusted without a line that says
who did it. Where the lock could then not be written, a second line says so.
"""

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, StringConstraints, ValidationError, model_validator

from capa.clock import utc_now
from capa.config.explain import did_you_mean, explain
from capa.config.problems import ProblemsError
from capa.config.reading import Source, decode_text, parse_toml, read_bytes
from capa.errors import CapaError
from capa.models import Frozen, Whole
from capa.storage.atomic import fsync_dir, write_atomically

__all__ = [
    "LOCK_VERSION",
    "Change",
    "LockError",
    "LockedPlugin",
    "PluginsLock",
    "journal_of",
    "read_lock",
    "trust",
    "untrust",
]

LOCK_VERSION = 1

_HASH = re.compile(r"sha256:[0-9a-f]{64}")


def _hash(text: str) -> str:
    if not _HASH.fullmatch(text):
        raise ValueError("must be 'sha256:' and 64 hexadecimal digits")
    return text


Text = Annotated[str, StringConstraints(min_length=1)]
Hash = Annotated[str, AfterValidator(_hash)]


class LockError(CapaError):
    """The lock can't be changed as asked."""


class LockedPlugin(Frozen):
    """One plug-in as it was when somebody trusted it; ``version`` is its distribution's."""

    id: Text
    package: Text
    version: Text
    entry_point: Text
    distribution_hash: Hash


class PluginsLock(Frozen):
    """Everything that is trusted on a box."""

    version: Whole = LOCK_VERSION
    plugins: tuple[LockedPlugin, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> "PluginsLock":
        ids = [plugin.id for plugin in self.plugins]
        twice = sorted({one for one in ids if ids.count(one) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands there more than once; keep one")
        return self

    def get(self, plugin_id: str) -> LockedPlugin | None:
        """Return the record of an id."""
        return next((plugin for plugin in self.plugins if plugin.id == plugin_id), None)


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the journal. ``changed`` names the fields that differ."""

    at_utc: datetime
    who: str
    action: Literal["trust", "untrust", "failed"]
    reason: str
    id: str
    before: LockedPlugin | None
    after: LockedPlugin | None

    @property
    def changed(self) -> tuple[str, ...]:
        """The fields in which before and after differ; all of them for a new or removed one."""
        before, after = _plain(self.before) or {}, _plain(self.after) or {}
        return tuple(key for key in (before or after) if before.get(key) != after.get(key))

    def as_dict(self) -> dict[str, Any]:
        """Return the line as plain data."""
        return {
            "at_utc": self.at_utc.isoformat(),
            "who": self.who,
            "action": self.action,
            "reason": self.reason,
            "id": self.id,
            "changed": list(self.changed),
            "before": _plain(self.before),
            "after": _plain(self.after),
        }


def journal_of(lock: Path) -> Path:
    """Return where the journal of a lock is: beside it."""
    return lock.with_name(f"{lock.name}.journal")


def read_lock(path: Path) -> PluginsLock | None:
    """Read a lock; None where there is none.

    Raises:
        ProblemsError: it can't be read, is no lock, or of a version that this capa does not know.
    """
    if not os.path.lexists(path):
        return None
    source = parse_toml(decode_text(read_bytes(path), file=str(path)), file=str(path))
    _check_version(source)
    try:
        return PluginsLock.model_validate(source.data)
    except ValidationError as error:
        problems = explain(error.errors(include_url=False), source, PluginsLock, area="lock")
        raise ProblemsError(problems) from None


def trust(
    path: Path,
    plugin: LockedPlugin,
    *,
    reason: str,
    who: str,
    now: Callable[[], datetime] = utc_now,
) -> Change:
    """Put a plug-in into the lock, or renew its record; makes the lock if there is none.

    Raises:
        LockError: no reason, or the files can't be written.
        ProblemsError: the lock that is there can't be read; it is left as it is.
    """
    with _exclusive(path, reason):
        lock = read_lock(path) or PluginsLock()
        change = Change(now(), who, "trust", reason, plugin.id, lock.get(plugin.id), plugin)
        others = [one for one in lock.plugins if one.id != plugin.id]
        _write(path, [*others, plugin], change)
    return change


def untrust(
    path: Path, plugin_id: str, *, reason: str, who: str, now: Callable[[], datetime] = utc_now
) -> Change:
    """Take a plug-in out of the lock.

    Raises:
        LockError: no reason, not in the lock, or the files can't be written.
        ProblemsError: the lock that is there can't be read; it is left as it is.
    """
    with _exclusive(path, reason):
        lock = read_lock(path) or PluginsLock()
        record = lock.get(plugin_id)
        if record is None:
            hint = did_you_mean(plugin_id, [one.id for one in lock.plugins], otherwise="it has")
            raise LockError(f"{path}: {plugin_id} is not in the lock; {hint}")
        change = Change(now(), who, "untrust", reason, plugin_id, record, None)
        _write(path, [one for one in lock.plugins if one.id != plugin_id], change)
    return change


def _check_version(source: Source) -> None:
    """Judge the version before the rest: a later one may well have other keys."""
    version = source.data.get("version")
    if type(version) is int and version == LOCK_VERSION:
        return
    if version is None:
        message, hint = "has no version", f"put `version = {LOCK_VERSION}` at its top"
    else:
        message = f"version {version!r} is unknown; this capa reads version {LOCK_VERSION}"
        hint = "trust the plug-ins again with this capa, into a new file"
    raise ProblemsError([source.problem("lock.version", ("version",), message, hint=hint)])


@contextmanager
def _exclusive(path: Path, reason: str) -> Iterator[None]:
    """Keep two people from changing a lock at once; all failures to write come out as one kind."""
    if not reason.strip():
        raise LockError('a reason is needed: --reason "why this is trusted, or no longer"')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with journal_of(path).open("ab") as journal:
            fcntl.flock(journal, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise LockError(
            f"{error.filename or path}: {error.strerror}; nothing is trusted that was not before"
        ) from error


def _write(path: Path, plugins: Sequence[LockedPlugin], change: Change) -> None:
    in_order = sorted(plugins, key=lambda plugin: plugin.id)
    table = {"version": LOCK_VERSION, "plugins": [plugin.model_dump() for plugin in in_order]}
    _append(journal_of(path), change.as_dict())
    try:
        write_atomically(path, tomli_w.dumps(table).encode())
    except OSError as error:
        failure = {**change.as_dict(), "action": "failed", "error": str(error.strerror)}
        _append(journal_of(path), failure)
        raise


def _append(journal: Path, line: dict[str, Any]) -> None:
    """Add a line and fsync it; a line that a power cut tore is closed off first."""
    text = json.dumps(line, ensure_ascii=False)
    with journal.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(-1, os.SEEK_END)
            text = text if file.read(1) == b"\n" else f"\n{text}"
        file.write(f"{text}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    fsync_dir(journal.parent)


def _plain(plugin: LockedPlugin | None) -> dict[str, Any] | None:
    return None if plugin is None else plugin.model_dump()
