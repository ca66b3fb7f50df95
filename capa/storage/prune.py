"""Removing bundles in a child process: ``python -m capa.storage.prune RUNS LIMITS``.

To verify a bundle is to read all of it, which is nothing to do beside a rig in the same process.
Killed at any instant, it leaves what the next pass, or the next start, finishes.
"""

import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from capa.clock import utc_now
from capa.errors import BundleError
from capa.storage.catalog import catalogued
from capa.storage.removal import Kept, Removed, clear_leftovers
from capa.storage.retention import Failed, Limits, Outcome, prune

if TYPE_CHECKING:
    import subprocess

__all__ = ["main", "prune_in_child"]

_KINDS: dict[str, type[Removed] | type[Kept] | type[Failed]] = {
    kind.__name__: kind for kind in (Removed, Kept, Failed)
}
_NICENESS = 15


async def prune_in_child(runs_root: Path, limits: Limits, *, by: str) -> list[Outcome]:
    """Remove the one bundle whose turn it is, if there is one; return what became of each.

    Raises:
        BundleError: the child failed, with its last words.
    """
    words = json.dumps(asdict(limits))
    # -P: no module of the working folder may stand in for one of ours.
    command = [sys.executable, "-P", "-m", "capa.storage.prune", str(runs_root), words, by]
    try:
        done = await trio.run_process(
            command,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            start_new_session=True,  # a Ctrl-C in the terminal is for the daemon alone
        )
    except OSError as error:
        raise BundleError(f"the removing child cannot start: {error}") from error
    return _outcomes(done)


def _outcomes(done: "subprocess.CompletedProcess[bytes]") -> list[Outcome]:
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = said[-1] if said else "it said nothing"
        raise BundleError(f"the removing child ended with {done.returncode}: {why}")
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    return [_KINDS[kind](**fields) for kind, fields in lines]


def main(arguments: list[str] | None = None) -> int:
    """Remove one bundle, print what became of each as JSON, one a line; return the exit code."""
    root, limits, by = sys.argv[1:] if arguments is None else arguments
    with suppress(OSError):  # a hardened unit forbids it; being nice is a courtesy
        os.nice(_NICENESS)
    runs_root = Path(root)
    clear_leftovers(runs_root)
    try:
        for outcome in prune(
            runs_root, Limits(**json.loads(limits)), by=by, now_utc=utc_now(), at_most=1
        ):
            sys.stdout.write(json.dumps([type(outcome).__name__, asdict(outcome)]) + "\n")
        catalogued(runs_root)  # which so knows of it at once
    except (BundleError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
