"""Errors, sorted by who has to act: the author of a file, whoever holds the cable, or us."""

from collections.abc import Iterator

__all__ = [
    "BundleError",
    "CapaError",
    "DeviceError",
    "FrameError",
    "LinkClosedError",
    "LinkError",
    "LinkTimeoutError",
    "kind_of",
    "said_by",
]


class CapaError(Exception):
    """Anything capa raises on purpose; the message says what was seen and what to do."""


class LinkError(CapaError):
    """An exchange with a device failed on its way: check power, cable and line settings."""


class LinkTimeoutError(LinkError):
    """A device stayed silent, or would not fall silent, past its deadline.

    ``fault`` is ``silent``, ``truncated`` (a reply began and did not end) or ``babble``.
    """

    def __init__(self, message: str, *, fault: str = "silent") -> None:
        super().__init__(message)
        self.fault = fault


class LinkClosedError(LinkError):
    """The port is gone or the other end hung up; the link reconnects by itself."""


class FrameError(CapaError):
    """Bytes that are not the reply to what was asked; the one error a codec raises.

    ``fault`` is what they are counted as: ``garbled``, ``checksum`` (it does not fit), ``foreign``
    (another device's, or an answer to another question), ``doubled`` (more came than was asked
    for), ``late`` (one of them is an older reply) or ``implausible``.
    """

    def __init__(self, message: str, *, fault: str = "garbled") -> None:
        super().__init__(message)
        self.fault = fault


class DeviceError(CapaError):
    """A device answered, and the answer is a refusal or a fault of its own."""


class BundleError(CapaError):
    """A bundle could not be opened, written or sealed."""


def kind_of(error: BaseException) -> str:
    """Return the name of an error's class; of a task group's error, of those in it."""
    return ", ".join(dict.fromkeys(type(one).__name__ for one in _leaves(error)))


def said_by(error: BaseException) -> str:
    """Say what went wrong, as ``Kind: message``.

    A task group wraps whatever fails in it, and tells only how often: what it wraps is said.
    """
    return "; ".join(f"{type(one).__name__}: {one}" for one in _leaves(error))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error
