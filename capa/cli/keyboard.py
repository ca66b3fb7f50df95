"""What an operator types while ``capa run`` shows a run: answers to prompts, wishes."""

import getpass
import os
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from capa.experiment.procedures.live import OperatorCommand

__all__ = ["HELP", "Keyboard"]

HELP = "Enter confirms a prompt; pause, resume and accept go to a procedure that listens"
_WISHES = frozenset({"pause", "resume", "accept"})
_MOST = 4096
_BACKGROUND_S = 1.0


class _Listener(Protocol):
    """The part of a conductor that an operator speaks to."""

    @property
    def metadata(self) -> MutableMapping[str, Any] | None: ...

    def tell(self, command: OperatorCommand) -> bool: ...


@dataclass(slots=True)
class Keyboard:
    """Lines from a terminal.

    Args:
        descriptor: the terminal's.
        conductor: who runs the run.
        say: shows a line to the operator.
    """

    descriptor: int
    conductor: _Listener
    say: Callable[[str], None]

    async def run(self) -> None:
        """Obey each line until the terminal is closed, or until cancelled."""
        pending = b""
        while True:
            await trio.lowlevel.wait_readable(self.descriptor)
            try:
                chunk = os.read(self.descriptor, _MOST)
            except OSError:  # in the background the terminal is not ours to read
                await trio.sleep(_BACKGROUND_S)
                continue
            if not chunk:  # it hung up: the run goes on without its operator
                return
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                self.obey(line.decode("utf-8", "replace").strip().lower())

    def obey(self, line: str) -> None:
        """Do what a line asks for, and say what came of it."""
        if not line:
            self._confirm()
        elif line in _WISHES:
            told = self.conductor.tell(OperatorCommand(line, getpass.getuser()))
            self.say(f"  told the procedure: {line}" if told else "  nothing that runs listens")
        else:
            self.say(f"  {line!r} is not understood: {HELP}")

    def _confirm(self) -> None:
        metadata = self.conductor.metadata
        if metadata is None:
            return
        metadata["_prompt_confirmed_by"] = getpass.getuser()
        metadata["_prompt_confirmed"] = True
