"""Who may command the rig: one authorization per run, stamped on every command it issues."""

import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from weakref import WeakValueDictionary

from capa.devices.adapter import DeviceCommand
from capa.errors import CapaError

__all__ = ["Authorization", "AuthorizationError"]

_ID_BYTES = 8


class AuthorizationError(CapaError):
    """A command was asked of an authorization that no longer stands."""


class Authorization:
    """A run's right to command; the gate lets through only what it issued, while it is armed."""

    def __init__(self, *, id: str, issued_by: str) -> None:  # noqa: A002 - the field's name is `id`
        self._id = id
        self._issued_by = issued_by
        self._armed = True
        self._issued: WeakValueDictionary[int, DeviceCommand] = WeakValueDictionary()

    @classmethod
    def mint(cls, issued_by: str) -> "Authorization":
        """Make a new one in the name of ``issued_by``, with a random 8-byte id."""
        return cls(id=secrets.token_hex(_ID_BYTES), issued_by=issued_by)

    @property
    def id(self) -> str:
        """16 hexadecimal digits, in every event of a command."""
        return self._id

    @property
    def issued_by(self) -> str:
        """In whose name the run commands."""
        return self._issued_by

    @property
    def armed(self) -> bool:
        """Whether it still stands."""
        return self._armed

    def issue(self, *, kind: str, target: str, payload: Mapping[str, Any]) -> DeviceCommand:
        """Return a stamped command for the dispatcher; its payload can't be changed any more.

        Raises:
            AuthorizationError: the run is over.
        """
        return self._stamp(kind, target, payload, self._issued_by, None)

    def issue_manual(
        self,
        *,
        kind: str,
        target: str,
        payload: Mapping[str, Any],
        issued_by: str,
        confirmed_by: str,
    ) -> DeviceCommand:
        """Return a command that a person gives by hand and a person has confirmed.

        Raises:
            AuthorizationError: the authorization is disarmed, or a name is missing.
        """
        if not issued_by.strip() or not confirmed_by.strip():
            raise AuthorizationError(
                f"manual command to {target}: issued_by is {issued_by!r} and confirmed_by is "
                f"{confirmed_by!r}; give both names"
            )
        return self._stamp(kind, target, payload, issued_by, confirmed_by)

    def disarm(self) -> None:
        """End it: nothing more is issued, and what is issued already is refused at the gate."""
        self._armed = False

    def issued(self, command: DeviceCommand) -> bool:
        """Whether this very object came from here; an equal copy did not."""
        return self._issued.get(id(command)) is command

    def _stamp(
        self,
        kind: str,
        target: str,
        payload: Mapping[str, Any],
        issued_by: str,
        confirmed_by: str | None,
    ) -> DeviceCommand:
        if not self._armed:
            raise AuthorizationError(
                f"command to {target}: authorization {self._id} is disarmed; the run is over"
            )
        command = DeviceCommand(
            kind=kind,
            target=target,
            payload=MappingProxyType(dict(payload)),
            issued_by=issued_by,
            authorization_id=self._id,
            confirmed_by=confirmed_by,
        )
        self._issued[id(command)] = command
        return command
