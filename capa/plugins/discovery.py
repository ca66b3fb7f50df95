"""Find procedures among entry points, let in what may run, and say why the rest may not.

Built-ins are trusted. In production mode anything else is hashed and compared with the lock
first, and imported only when everything agrees. One that does not load takes no other with it.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points

from capa.config.problems import Problem, ProblemsError
from capa.experiment.procedures.available import Procedures
from capa.experiment.procedures.base import Procedure
from capa.plugins.clashes import Claim, refusals
from capa.plugins.contract import faults_of
from capa.plugins.drift import Drift, DriftKind, Installed, compare, drift_of, record_of
from capa.plugins.fingerprint import Fingerprint, FingerprintError, fingerprint
from capa.plugins.importing import (
    PluginCode,
    PluginImportError,
    import_in_time,
    import_target,
    imported_from,
    parts_of,
)
from capa.plugins.later import ProceduresLater, procedures_under
from capa.plugins.lock import PluginsLock, read_lock
from capa.plugins.policy import PluginMode, Policy, policy, policy_here

__all__ = [
    "GROUP",
    "Discovery",
    "Loaded",
    "Rejected",
    "discover",
    "load_builtins",
    "load_procedures",
    "load_procedures_here",
    "report",
]

GROUP = "capa.procedures"
_OURS = "capa"
_NAMELESS = "(unknown)"
_STAMP = "__capa_distribution_hash__"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A procedure that may run. ``hash`` is None for a built-in, and where none can be taken.

    ``version`` is the distribution's; the procedure's own is ``cls.version``.
    """

    id: str
    cls: type[Procedure]
    package: str
    version: str
    entry_point: str
    hash: str | None
    builtin: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """An entry point that brings no procedure, by its name, and why.

    ``id`` is the class's own, where it came so far.
    """

    name: str
    package: str
    reason: str
    version: str = ""
    entry_point: str = ""
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found. ``problems`` are the lock's own: with any, nothing in it is trusted."""

    policy: Policy
    lock: PluginsLock | None = None
    loaded: tuple[Loaded, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    drift: tuple[Drift, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def procedures(self) -> Procedures:
        """The usable classes, by id, and why others are not."""
        left_out = {one.id or one.name: one.reason for one in self.rejected}
        left_out |= {one.name: one.reason for one in self.rejected}
        return Procedures({one.id: one.cls for one in self.loaded}, left_out)


def load_builtins() -> Procedures:
    """Load the procedures of capa itself, and import nothing of anybody else's."""
    search = _Search(Policy(), None)
    search.take_all(filter(_is_builtin, entry_points(group=GROUP)))
    return Procedures({one.id: one.cls for one in search.loaded})


def load_procedures(under: Policy | None = None) -> Procedures:
    """Load every procedure that may run under a policy, by id; what is left out is logged.

    Without one, the environment's word is taken.

    Raises:
        PluginModeError: there is no such mode.
    """
    found = discover(policy() if under is None else under)
    report(found)
    return found.procedures


def load_procedures_here() -> ProceduresLater:
    """Return what a person at a shell may run: on a box, what the daemon would.

    Raises:
        PluginModeError: the mode is none, or the box's settings can't be read.
    """
    return procedures_under(policy_here())


def report(found: Discovery) -> None:
    """Log what was left out, what differs from the lock, and what an author should know."""
    import structlog  # here: it takes 0.2 s, and only the daemon logs what was found

    log = structlog.get_logger(__name__)
    for problem in found.problems:
        log.error("plugins.lock_unusable", message=f"{problem}; only built-ins are trusted")
    for one in found.rejected:
        message = f"procedure '{one.name}' of {one.package} is left out: {one.reason}"
        log.warning("plugin.rejected", name=one.name, package=one.package, message=message)
    production = found.policy.mode is PluginMode.PRODUCTION
    for drift in found.drift:
        if production and drift.kind is not DriftKind.MISSING_FROM_INSTALL:
            continue  # it is the reason of a rejection
        log.warning("plugin.drift", kind=drift.kind.value, id=drift.id, message=str(drift))
    for loaded in found.loaded:
        for note in loaded.notes:
            log.info("plugin.note", id=loaded.id, message=note)


def discover(under: Policy, *, only: str | None = None) -> Discovery:
    """Look at every entry point of the group; never raises for what a plug-in does.

    ``only`` is an id that is asked for: where an entry point has that name, no other third
    party's code is imported.
    """
    lock, problems = _read(under)
    search = _Search(under, lock)
    search.take_all(_in_order(entry_points(group=GROUP), only))
    drift = drift_of(lock, search.installed) if lock is not None and only is None else ()
    return Discovery(
        under, lock, tuple(search.loaded), tuple(search.rejected), drift, tuple(problems)
    )


def _read(under: Policy) -> tuple[PluginsLock | None, tuple[Problem, ...]]:
    if under.lock is None:
        return None, ()
    try:
        return read_lock(under.lock), ()
    except ProblemsError as error:
        return None, error.problems


def _in_order(entries: Iterable[EntryPoint], only: str | None) -> list[EntryPoint]:
    """Put built-ins first, so that an id of theirs is theirs; then by package and name."""
    ordered = sorted(entries, key=lambda e: (not _is_builtin(e), _package(e), e.name))
    if only is None or not any(entry.name == only for entry in ordered):
        return ordered
    return [entry for entry in ordered if entry.name == only or _is_builtin(entry)]


def _is_builtin(entry: EntryPoint) -> bool:
    """Whether it is ours: of our distribution, and of our package."""
    return _package(entry) == _OURS and entry.value.startswith(f"{_OURS}.")


def _package(entry: EntryPoint) -> str:
    """Return the distribution's name, which a half-removed one has not."""
    try:
        return (entry.dist.name or _NAMELESS) if entry.dist is not None else _NAMELESS
    except (KeyError, OSError):
        return _NAMELESS


@dataclass(slots=True)
class _Search:
    under: Policy
    lock: PluginsLock | None
    loaded: list[Loaded] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    installed: list[Installed] = field(default_factory=list)
    prints: dict[str, Fingerprint | FingerprintError] = field(default_factory=dict)
    claims: dict[Claim, Loaded] = field(default_factory=dict)

    def take_all(self, entries: Iterable[EntryPoint]) -> None:
        """Load what can be loaded, and settle who has which id."""
        for entry in entries:
            self._take(entry)
        self._settle()

    def _settle(self) -> None:
        """Refuse those whose id is another's, or nobody's."""
        refused = refusals([*self.claims, *self._names_of_the_rejected()])
        for claim, reason in refused.items():
            loaded = self.claims.get(claim)
            if loaded is not None:
                self.loaded.remove(loaded)
                item = Installed(claim.name, loaded.package, loaded.version, claim.target, None)
                self._reject(item, reason, loaded.id)

    def _names_of_the_rejected(self) -> list[Claim]:
        """Return what keeps its id from others, though it does not run: a plug-in that broke.

        In production mode the lock has settled whose an id is. A built-in's id is never another's,
        whatever an entry point is called.
        """
        if self.under.mode is PluginMode.PRODUCTION:
            return []
        ours = {one.id for one in self.loaded if one.builtin}
        return [
            Claim(one.name, one.name, one.package, one.entry_point)
            for one in self.rejected
            if one.name not in ours
        ]

    def _take(self, entry: EntryPoint) -> None:
        """Load one entry, or record why not."""
        builtin = _is_builtin(entry)
        item = Installed(entry.name, _package(entry), _version(entry), entry.value, None)
        try:
            if not builtin:
                item = self._identified(item, entry)
                self._check_trust(item, entry)
            loaded = self._load(entry, item, builtin=builtin)
        except (PluginImportError, _RefusedError) as error:
            self._reject(item, str(error))
        else:
            claim = Claim(loaded.id, item.id, item.package, item.entry_point)
            item = _named(item, loaded.id)
            self.loaded.append(loaded)
            self.claims[claim] = loaded
        if not builtin:
            self.installed.append(item)

    def _identified(self, item: Installed, entry: EntryPoint) -> Installed:
        """Add the hash, taken before any of the plug-in's code has run."""
        taken = self._fingerprint(entry)
        found = taken.hash if isinstance(taken, Fingerprint) else None
        return Installed(item.id, item.package, item.version, item.entry_point, found)

    def _fingerprint(self, entry: EntryPoint) -> Fingerprint | FingerprintError:
        package = _package(entry)
        if package not in self.prints:
            self.prints[package] = _taken(entry)
        return self.prints[package]

    def _check_trust(self, item: Installed, entry: EntryPoint) -> None:
        """In production mode, refuse what is not exactly what the lock trusts."""
        if self.under.mode is PluginMode.DEV:
            return
        if self.lock is None:
            path = self.under.lock
            absent = path is not None and not path.exists()
            hint = f"; {_how_to_trust(item)}" if absent else ""
            said = f"there is no usable plugins.lock{_at(self.under)}{hint}"
            raise _RefusedError(f"not trusted: {said}")
        taken = self._fingerprint(entry)
        if isinstance(taken, FingerprintError):
            raise _RefusedError(f"not trusted: {taken}")
        differences = compare(record_of(self.lock, item), item)
        if differences:
            said = "; ".join(str(one) for one in differences)
            raise _RefusedError(f"not trusted: {said}; {_how_to_trust(item)}")
        _check_place(entry, taken)
        _check_not_stale(entry, taken)

    def _load(self, entry: EntryPoint, item: Installed, *, builtin: bool) -> Loaded:
        cls = _checked(self._imported(entry, item, builtin=builtin))
        notes = _notes(entry, cls)
        self._check_id(cls, item, builtin=builtin)
        return Loaded(
            cls.id, cls, item.package, item.version, item.entry_point, item.hash, builtin, notes
        )

    def _imported(self, entry: EntryPoint, item: Installed, *, builtin: bool) -> object:
        if builtin:
            return import_target(entry)
        try:
            return import_in_time(entry, self.under.import_deadline_s)
        finally:
            _stamp(entry, item)  # of one that hangs, too: it may still come to its end

    def _check_id(self, cls: type[Procedure], item: Installed, *, builtin: bool) -> None:
        ours = next((one for one in self.loaded if one.builtin and one.id == cls.id), None)
        if ours is not None:
            raise _RefusedError(
                f"its id {cls.id!r} ({item.entry_point}) is taken by {ours.entry_point}, "
                "a built-in of capa; give it an id of its own"
            )
        if builtin or self.lock is None or self.under.mode is PluginMode.DEV:
            return
        record = record_of(self.lock, item)
        if record is None or record.id != cls.id:
            trusted = "nothing" if record is None else repr(record.id)
            raise _RefusedError(f"not trusted: its id is {cls.id!r}, the lock trusts {trusted}")

    def _reject(self, item: Installed, reason: str, own_id: str | None = None) -> None:
        self.rejected.append(
            Rejected(item.id, item.package, reason, item.version, item.entry_point, own_id)
        )


class _RefusedError(Exception):
    """Why an entry is left out; never leaves this module."""


def _how_to_trust(item: Installed) -> str:
    command = f"capa plugins trust {item.id} --reason ..."
    return f"review it, then: {command} (a daemon that runs goes by it once it is restarted)"


def _named(item: Installed, plugin_id: str) -> Installed:
    return Installed(plugin_id, item.package, item.version, item.entry_point, item.hash)


def _version(entry: EntryPoint) -> str:
    try:
        return (entry.dist.version or "") if entry.dist is not None else ""
    except (KeyError, OSError):
        return ""


def _taken(entry: EntryPoint) -> Fingerprint | FingerprintError:
    if entry.dist is None:
        return FingerprintError("the entry point belongs to no distribution; install it with pip")
    try:
        return fingerprint(entry.dist)
    except FingerprintError as error:
        return error


def _check_place(entry: EntryPoint, taken: Fingerprint) -> None:
    """Refuse a module that would come from elsewhere: what was hashed is not what would run."""
    module, _ = parts_of(entry)
    files = imported_from(module)
    if not files:
        raise _RefusedError(f"not trusted: there is no file to import {module} from")
    strange = [file for file in files if file not in taken.files]
    if strange:
        raise _RefusedError(
            f"not trusted: importing {module} would run {strange[0]}, which is no file of "
            f"{_package(entry)}"
        )


def _check_not_stale(entry: EntryPoint, taken: Fingerprint) -> None:
    """Refuse what was imported before it was changed and trusted anew: the old code would run."""
    module = sys.modules.get(parts_of(entry)[0])
    stamp = None if module is None else vars(module).get(_STAMP)
    if stamp not in (None, taken.hash):
        raise _RefusedError("it has changed since it was imported; restart to run what is trusted")


def _stamp(entry: EntryPoint, item: Installed) -> None:
    """Mark the module with the hash it was imported under, unless it was imported before."""
    module = sys.modules.get(parts_of(entry)[0])
    if module is not None and item.hash is not None:
        vars(module).setdefault(_STAMP, item.hash)


def _checked(candidate: object) -> type[Procedure]:
    with PluginCode(lambda error: f"looking at its class raised {type(error).__name__}: {error}"):
        faults = faults_of(candidate)
    if faults:
        raise _RefusedError("; ".join(faults))
    return candidate  # type: ignore[return-value]  # faults_of found every part of the protocol


def _notes(entry: EntryPoint, cls: type[Procedure]) -> tuple[str, ...]:
    if entry.name == cls.id:
        return ()
    return (
        f"entry point '{entry.name}' names a class whose id is '{cls.id}'; "
        "give the entry point the same name",
    )


def _at(under: Policy) -> str:
    return "" if under.lock is None else f" at {under.lock}"
