"""Finalizing in a child process: ``python -m capa.storage.finalize DIR``.

A child, so that neither Arrow's memory nor a failure of its own can touch the daemon.
"""

import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING, cast

import trio

from capa.storage.manifest import BundleStatus

if TYPE_CHECKING:
    import subprocess

__all__ = ["FINALIZE_TIMEOUT_S", "FinalizeResult", "finalize_in_child", "main"]

FINALIZE_TIMEOUT_S = 900.0

EXIT_SEALED = 0
EXIT_UNFINISHED = 1
EXIT_VERIFICATION_FAILED = 3
EXIT_USAGE = 64

_NICENESS = 10


@dataclass(frozen=True, slots=True)
class FinalizeResult:
    """What became of a bundle, and why, in words."""

    bundle_status: BundleStatus
    detail: str

    @property
    def sealed(self) -> bool:
        """Whether the bundle is whole."""
        return self.bundle_status == "sealed"


async def finalize_in_child(
    path: Path, *, sign_key: Path | None = None, timeout_s: float = FINALIZE_TIMEOUT_S
) -> FinalizeResult:
    """Finalize the bundle in ``path`` and verify it; what goes wrong is returned, never raised.

    With ``sign_key``, an Ed25519 key as ``ssh-keygen`` makes them, the bundle is signed.

    A child that takes longer than ``timeout_s`` is killed, and so it is on cancellation; the
    bundle is then still ``finalizing``, and a later call goes on with it.
    """
    # -P: no module of the working folder may stand in for one of ours.
    command = [sys.executable, "-P", "-m", "capa.storage.finalize", str(path)]
    if sign_key is not None:
        command += ["--sign-key", str(sign_key)]
    with trio.move_on_after(timeout_s) as deadline:
        try:
            process = await trio.run_process(
                command,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                start_new_session=True,  # a Ctrl-C in the terminal is for the daemon alone
            )
        except OSError as error:
            return FinalizeResult("finalizing", f"the finalizing child cannot start: {error}")
        return _result_of(process)
    if deadline.cancelled_caught:
        return FinalizeResult("finalizing", f"{path}: not finished within {timeout_s:g} s")
    return FinalizeResult("finalizing", f"{path}: the finalizing child was given up")


def _result_of(process: "subprocess.CompletedProcess[bytes]") -> FinalizeResult:
    lines = process.stdout.decode(errors="replace").splitlines()
    try:
        answer = json.loads(lines[-1])
        return FinalizeResult(cast("BundleStatus", answer["bundle_status"]), answer["detail"])
    except (IndexError, ValueError, KeyError, TypeError):
        said = process.stderr.decode(errors="replace").strip().splitlines()
        why = said[-1] if said else "it said nothing"
        return FinalizeResult(
            "finalizing", f"the finalizing child ended with {process.returncode}: {why}"
        )


class _WithoutPandas(MetaPathFinder):
    """Keeps pandas out: Arrow loads it, where there is one, for the first list that it converts.

    That is 0.3 s and 40 MB of a short run's sealing, for nothing.
    """

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname, name=fullname)


def main(arguments: list[str] | None = None) -> int:
    """Finalize one bundle, print the result as one JSON object, return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    match arguments:
        case [folder]:
            path, sign_key = Path(folder), None
        case [folder, "--sign-key", key]:
            path, sign_key = Path(folder), Path(key)
        case _:
            sys.stderr.write("usage: python -m capa.storage.finalize DIR [--sign-key KEY]\n")
            return EXIT_USAGE
    with suppress(OSError):  # a hardened unit forbids it; being nice is a courtesy
        os.nice(_NICENESS)
    # SQLite's sorter spills beside the bundle, on the disk that has to have the room anyway.
    os.environ.setdefault("SQLITE_TMPDIR", str(path))
    # Here, and not above: only the child may load Arrow.
    from capa.storage.seal import finalize_bundle

    result = finalize_bundle(path, sign_key=sign_key)
    sys.stdout.write(json.dumps(asdict(result)) + "\n")
    codes = {"sealed": EXIT_SEALED, "verification_failed": EXIT_VERIFICATION_FAILED}
    return codes.get(result.bundle_status, EXIT_UNFINISHED)


if __name__ == "__main__":
    # "systemctl kill -s INT" reaches every process of the service; it means the run, not us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.meta_path.insert(0, _WithoutPandas())
    sys.exit(main())
