"""``capa plugins``: which procedures are installed, which are trusted, and what differs."""

import json
import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from capa.errors import CapaError

if TYPE_CHECKING:  # a tool that validates a method need not load what discovers plug-ins
    from capa.plugins.discovery import Discovery, Loaded
    from capa.plugins.drift import Drift
    from capa.plugins.lock import Change

__all__ = ["plugins"]

_EXIT_REFUSED = 2
_EXIT_CONFIG = 78
_HASH_SHOWN = len("sha256:") + 12

plugins = typer.Typer(
    help="List the installed procedures; trust one, or stop trusting it.", no_args_is_help=True
)

LockOption = Annotated[
    Path | None,
    typer.Option("--lock", metavar="PATH", help="The plugins.lock; the daemon's unless said."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The procedure's id.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept in the journal.")]


@plugins.command("list")
def list_plugins(lock: LockOption = None, as_json: JsonOption = False) -> None:
    """Print every procedure that may run, those that are refused, and drift from the lock."""
    from capa.plugins.discovery import discover
    from capa.plugins.policy import policy_here

    try:
        found = discover(policy_here(lock))
    except CapaError as error:
        _fail("list", error, _EXIT_CONFIG)
    rows = [_row(one) for one in found.loaded]
    typer.echo(json.dumps(_plain(found, rows)) if as_json else "\n".join(_page(found, rows)))
    if found.problems:
        raise typer.Exit(_EXIT_CONFIG)


@plugins.command(no_args_is_help=True)
def trust(
    plugin_id: IdArgument,
    reason: ReasonOption,
    lock: LockOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a procedure into plugins.lock as it is installed now, and say why in its journal."""
    from capa.plugins.discovery import discover
    from capa.plugins.lock import LockedPlugin
    from capa.plugins.lock import trust as put
    from capa.plugins.policy import PluginMode, Policy

    try:
        path = _lock_path(lock)
        found = discover(Policy(PluginMode.DEV, None), only=plugin_id)
        one = _trustable(found, plugin_id)
        record = LockedPlugin(
            id=one.id,
            package=one.package,
            version=one.version,
            entry_point=one.entry_point,
            distribution_hash=one.hash or "",
        )
        change = put(path, record, reason=reason, who=_who())
    except CapaError as error:
        _fail("trust", error, _EXIT_REFUSED)
    _tell(change, path, as_json=as_json)


@plugins.command(no_args_is_help=True)
def untrust(
    plugin_id: IdArgument,
    reason: ReasonOption,
    lock: LockOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a procedure out of plugins.lock, and say why in its journal."""
    from capa.plugins.lock import untrust as take

    try:
        path = _lock_path(lock)
        change = take(path, plugin_id, reason=reason, who=_who())
    except CapaError as error:
        _fail("untrust", error, _EXIT_REFUSED)
    _tell(change, path, as_json=as_json)


def _lock_path(told: Path | None) -> Path:
    from capa.plugins.policy import policy_here

    path = policy_here(told).lock
    if path is None:
        raise CapaError("no plugins.lock is named; say --lock PATH")
    return path


def _trustable(found: "Discovery", plugin_id: str) -> "Loaded":
    """Return the one that is asked for.

    Raises:
        CapaError: there is none of that id, it is refused, is ours, or can't be hashed.
    """
    from capa.config.explain import did_you_mean

    one = next((one for one in found.loaded if one.id == plugin_id), None)
    refused = next((one for one in found.rejected if plugin_id in (one.name, one.id)), None)
    if one is None and refused is not None:
        raise CapaError(f"{plugin_id} of {refused.package} is refused: {refused.reason}")
    if one is None:
        third = [known.id for known in found.loaded if not known.builtin]
        hint = did_you_mean(plugin_id, third, otherwise="installed are")
        raise CapaError(f"no installed procedure has the id {plugin_id}; {hint}")
    if one.builtin:
        raise CapaError(f"{plugin_id} is a built-in: it is always trusted, and not in the lock")
    if one.hash is None:
        raise CapaError(f"the files of {one.package} can't be hashed; install it with pip or uv")
    return one


def _who() -> str:
    """Name who does it: the account, and who stands behind sudo; not what $USER pretends."""
    uid = os.getuid()
    try:
        account = pwd.getpwuid(uid).pw_name
    except KeyError:
        account = f"uid {uid}"
    behind = os.environ.get("SUDO_USER") if uid == 0 else None
    return f"{account} (sudo by {behind})" if behind else account


def _fail(command: str, error: CapaError, code: int) -> NoReturn:
    typer.echo(f"capa plugins {command}: {error}", err=True)
    raise typer.Exit(code) from error


def _tell(change: "Change", path: Path, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"lock": str(path), **change.as_dict()}))
        return
    record = change.after or change.before
    assert record is not None  # noqa: S101 - a change has at least one side
    verb = "trusted" if change.action == "trust" else "no longer trusted"
    typer.echo(f"{verb}: {record.id} ({record.package} {record.version})")
    typer.echo(f"{path}: {', '.join(change.changed) or 'nothing'} changed, by {change.who}")
    typer.echo("a running daemon goes by it from its next start")


def _row(one: "Loaded") -> dict[str, Any]:
    return {
        "id": one.id,
        "name": one.cls.name,
        "package": one.package,
        "version": one.version,
        "entry_point": one.entry_point,
        "hash": _own_hash() if one.builtin else one.hash,
        "builtin": one.builtin,
        "notes": list(one.notes),
    }


def _own_hash() -> str | None:
    """Hash capa itself, for the reader: nothing depends on it."""
    from importlib.metadata import PackageNotFoundError, distribution

    from capa.plugins.fingerprint import FingerprintError, fingerprint

    try:
        return fingerprint(distribution("capa")).hash
    except (FingerprintError, PackageNotFoundError):
        return None


def _plain(found: "Discovery", rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "mode": found.policy.mode.value,
        "lock": str(found.policy.lock),
        "lock_present": found.lock is not None,
        "plugins": rows,
        "rejected": [
            {
                "name": one.name,
                "package": one.package,
                "version": one.version,
                "entry_point": one.entry_point,
                "reason": one.reason,
            }
            for one in found.rejected
        ],
        "drift": [_plain_drift(one) for one in found.drift],
        "problems": [str(problem) for problem in found.problems],
    }


def _plain_drift(one: "Drift") -> dict[str, Any]:
    return {
        "kind": one.kind.value,
        "id": one.id,
        "package": one.package,
        "locked": one.locked,
        "installed": one.installed,
    }


def _page(found: "Discovery", rows: list[dict[str, Any]]) -> list[str]:
    lines = [f"plugin mode: {found.policy.mode}", f"plugins.lock: {_lock_line(found)}", ""]
    lines += _table(rows)
    lines += _section("notes", [f"{row['id']}: {note}" for row in rows for note in row["notes"]])
    lines += _section("rejected", [f"{o.name} ({o.package}): {o.reason}" for o in found.rejected])
    lines += _section("drift", [str(one) for one in found.drift])
    return lines + _section("problems", [str(problem) for problem in found.problems])


def _lock_line(found: "Discovery") -> str:
    if found.problems:
        return f"{found.policy.lock} (unusable: see below; only built-ins are trusted)"
    if found.lock is None:
        return "(none — production mode requires one to gate trust)"
    return f"{found.policy.lock} ({len(found.lock.plugins)} trusted)"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Lay the table out in the specification's widths, wider where an entry needs it."""
    head = {"id": "id", "package": "package", "version": "version", "hash": "hash"}
    least = {"id": 40, "package": 20, "version": 10}
    width = {key: max(least[key], *(len(str(row[key])) for row in [head, *rows])) for key in least}
    shown = [{**row, "hash": _short(row["hash"])} for row in rows]
    return [
        " ".join([*(f"{row[key]!s:<{width[key]}}" for key in width), row["hash"]])
        for row in [head, *shown]
    ]


def _short(full: str | None) -> str:
    return "(none)" if full is None else f"{full[:_HASH_SHOWN]}…"


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", f"{title}:", *(f"  {line}" for line in lines)] if lines else []
