"""The base of every model read from a file: frozen, and closed to unknown keys."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Strict

__all__ = ["Flag", "Frozen", "Number", "Whole"]

Number = Annotated[float, Strict()]
"""A number as written in a file: ``"600"`` and ``true`` are mistakes, ``600`` is a number."""

Whole = Annotated[int, Strict()]
"""A whole number, with the same strictness."""

Flag = Annotated[bool, Strict()]
"""``true`` or ``false``, and nothing that merely looks like it."""


class Frozen(BaseModel):
    """A value from a file: immutable, with no keys but the declared ones and no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
