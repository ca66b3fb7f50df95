"""The twin as a child process: started, waited for, ended, and missed if it dies."""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from structlog.typing import FilteringBoundLogger

from capa.config.problems import Problem, ProblemsError

__all__ = ["running_twin"]

READY_TIMEOUT_S = 30.0
END_TIMEOUT_S = 3.0

_CHILD = """
import os, signal, sys, threading, tomllib
from pathlib import Path

# Ctrl-C and "systemctl kill -s INT" abort the run; the instruments do not go away with it.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])

def end_with_the_parent():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=end_with_the_parent, daemon=True).start()
from capa.config.beside import files_beside
from capa.devices.registry import load_twins
from capa.errors import CapaError
try:
    file = Path(sys.argv[1])
    profile = files_beside(tomllib.loads(file.read_text(encoding="utf-8")), file.parent)
    load_twins({"plant"})["plant"](profile, Path(sys.argv[2]))
except (CapaError, OSError, ValueError, KeyError) as error:
    sys.exit(f"twin: {error}")
"""


@asynccontextmanager
async def running_twin(
    profile: Path, directory: Path, *, log: FilteringBoundLogger, on_death: Callable[[str], None]
) -> AsyncIterator[Path]:
    """Serve ``profile`` with simulated instruments; yield the profile that reaches them.

    ``on_death`` hears it, in words, if the twin ends by itself.

    Raises:
        ProblemsError: it did not get ready; its own words are on standard error.
    """
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", _CHILD, str(profile), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        await _wait_ready(process, profile)
        log.info("twin.ready", pid=process.pid, directory=str(directory))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, process, on_death)
            yield directory / "profile.toml"
            nursery.cancel_scope.cancel()
    finally:
        with trio.move_on_after(2 * END_TIMEOUT_S, shield=True):
            await _end(process)


async def _wait_ready(process: trio.Process, profile: Path) -> None:
    with trio.move_on_after(READY_TIMEOUT_S):
        if await _said_ready(process):
            return
        status = await process.wait()
        raise _refusal(profile, f"the twin ended with {status} before it was ready")
    raise _refusal(profile, f"the twin was not ready within {READY_TIMEOUT_S:g} s")


async def _said_ready(process: trio.Process) -> bool:
    said = b""
    if process.stdout is not None:
        async for chunk in process.stdout:
            said += chunk
            if b"ready" in said.splitlines():
                return True
    return False


async def _watch(process: trio.Process, on_death: Callable[[str], None]) -> None:
    """Drain what the twin still prints, so that it never blocks on it, and see its end."""
    if process.stdout is not None:
        async for _ in process.stdout:
            pass
    status = await process.wait()
    on_death(f"the twin (pid {process.pid}) ended with {_ending(status)}; nothing answers any more")


def _ending(status: int) -> str:
    if status >= 0:
        return f"exit code {status}"
    return signal.Signals(-status).name


async def _end(process: trio.Process) -> None:
    """Ask, then insist; only the process that we started."""
    if process.returncode is None:
        process.terminate()
        with trio.move_on_after(END_TIMEOUT_S):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            await pipe.aclose()


def _refusal(profile: Path, message: str) -> ProblemsError:
    hint = "its own message is above; try: capa twin PROFILE --dir DIR"
    return ProblemsError([Problem("twin.not_ready", message, file=str(profile), hint=hint)])
