"""Adapters that hear themselves: the request comes back before the reply."""

from collections.abc import Callable
from typing import TypeVar

from capa.errors import FrameError

__all__ = ["behind_echo"]

ReplyT = TypeVar("ReplyT")


def behind_echo(
    request: bytes, feed: Callable[[bytes], ReplyT | None]
) -> Callable[[bytes], ReplyT | None]:
    """Return a feed that takes exactly the request first, and hands ``feed`` what follows.

    Without the comparison the echo of some writes is a valid reply (Modbus function 06), and a
    device that is unplugged would seem to have obeyed. An echo that differs is a collision, or no
    echo at all.

    The feed raises:
        FrameError: the first bytes are not the request.
    """
    heard = b""

    def take(chunk: bytes) -> ReplyT | None:
        nonlocal heard
        left = len(request) - len(heard)
        if left <= 0:
            return feed(chunk)
        heard += chunk[:left]
        if not request.startswith(heard):
            raise FrameError(
                f"{heard.hex(' ')} came back as the echo of {request.hex(' ')}: two speak at once, "
                "or the adapter does not echo and the link should not say local_echo = true"
            )
        return feed(chunk[left:]) if len(chunk) > left else None

    return take
