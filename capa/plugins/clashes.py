"""Which of several entry points that bring one id may have it.

An id in an experiment file must lead to one procedure, and not to whichever package's name comes
first in the alphabet. An entry point that is named after the id has the right to it; where none
or several are, nobody can tell which is meant, and none runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Claim", "refusals"]


@dataclass(frozen=True, slots=True)
class Claim:
    """An entry point (``name = target``) of a package, and the id that it brings."""

    plugin_id: str
    name: str
    package: str
    target: str

    def __str__(self) -> str:
        """Return it in the words of a refusal."""
        return f"{self.target} (package {self.package}, entry point '{self.name}')"


def refusals(claims: Sequence[Claim]) -> dict[Claim, str]:
    """Return those that may not have the id they claim, and why."""
    found: dict[Claim, str] = {}
    for plugin_id in {claim.plugin_id for claim in claims}:
        rivals = [claim for claim in claims if claim.plugin_id == plugin_id]
        rightful = [claim for claim in rivals if claim.name == plugin_id]
        if len(rivals) > 1 and len(rightful) == 1:
            found |= {one: _taken(one, rightful[0]) for one in rivals if one is not rightful[0]}
        elif len(rivals) > 1:
            found |= dict.fromkeys(rivals, _disputed(plugin_id, rivals))
    return found


def _taken(claim: Claim, rightful: Claim) -> str:
    return (
        f"its id '{claim.plugin_id}' is that of {rightful}, too, which has the id's name; give "
        f"{claim.target} of {claim.package} an id of its own, and its entry point that name"
    )


def _disputed(plugin_id: str, rivals: Sequence[Claim]) -> str:
    return (
        f"the id '{plugin_id}' is brought by {' and by '.join(map(str, rivals))}, and none of them "
        f"has the better right to it, so none runs; uninstall all but one of the packages, or give "
        f"each class an id of its own, and its entry point that name"
    )
