"""A kill at a step of the program's own, before it or right after."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

__all__ = ["killed_at"]


class _KilledError(BaseException):
    """Nothing of the program's own catches it."""


@contextmanager
def killed_at(
    monkeypatch: pytest.MonkeyPatch, owner: object, step: str, *, after: bool
) -> Iterator[None]:
    """End the block where it calls ``owner.step``, or where that returns; it has to get there."""
    honest = getattr(owner, step)

    def killed(*args: object, **options: object) -> object:
        if after:
            honest(*args, **options)
        raise _KilledError

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, killed)
        with pytest.raises(_KilledError):
            yield
