"""Errors, sorted by who has to act: the author of a file, whoever holds the cable, or us."""

__all__ = [
    "BundleError",
    "CapaError",
    "DeviceError",
    "FrameError",
    "LinkClosedError",
    "LinkError",
    "LinkTimeoutError",
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
