"""What the operator may say while a tune runs: pause, resume, accept."""

from collections.abc import AsyncIterable, Callable
from typing import Any, Protocol

__all__ = ["COMMANDS", "Commandable", "listen"]

COMMANDS = ("pause", "resume", "accept")


class Commandable(Protocol):
    """What obeys."""

    def pause(self, issued_by: str) -> None:
        """Hold the setpoint; no budget runs, nothing is judged. The guard stays awake."""
        ...

    def resume(self, issued_by: str) -> None:
        """Go on; the steady window begins anew."""
        ...

    def accept(self, issued_by: str) -> None:
        """Take the present measurement for this target, whatever its tolerance."""
        ...


async def listen(
    commands: AsyncIterable[Any] | None,
    obey: Commandable,
    ignored: Callable[[str, str], None],
) -> None:
    """Obey commands until their stream ends; a command is an ``OperatorCommand`` or its kind.

    ``ignored(kind, issued_by)`` is told of a command that is none of ours.
    """
    if commands is None:
        return
    async for command in commands:
        kind = str(getattr(command, "kind", command))
        issued_by = str(getattr(command, "issued_by", "operator"))
        if kind in COMMANDS:
            getattr(obey, kind)(issued_by)
        else:
            ignored(kind, issued_by)
