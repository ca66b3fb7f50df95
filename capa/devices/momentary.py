"""Keys to press: what a device can be told to do once, as fields, so that the gate sees to it."""

from collections.abc import Mapping

from capa.devices.adapter import FieldInfo, FieldWrite, Reading

__all__ = ["Keys", "key_field"]

PRESS = 1.0


def key_field(name: str, description: str, *, command: str | None = None) -> FieldInfo:
    """Describe a key such as ``tare``: commanded with 1, read as how often it was pressed.

    There is nothing to read back; the count shows in the record when it was.
    """
    return FieldInfo(
        name,
        "1",
        command=command or name,
        resolution=0.5,
        reads_back=False,
        description=f"{description}; write 1; reads how often this was done since the start",
    )


class Keys:
    """How often each key was pressed since the driver was made."""

    def __init__(self, fields: Mapping[str, FieldInfo]) -> None:
        """Find the keys among a device's fields: what is commanded and can't be read back."""
        self._pressed = {
            info.name: 0
            for info in fields.values()
            if info.command is not None and not info.reads_back and info.unit == "1"
        }

    def __contains__(self, name: object) -> bool:
        return name in self._pressed

    def refusal(self, write: FieldWrite) -> str:
        """Say why a key is not pressed by this; empty if it is."""
        if write.value == PRESS:
            return ""
        return f"{write.field} is a key: 1 presses it, {write.value:g} means nothing"

    def press(self, name: str) -> None:
        """Count a key that was pressed, as far as anyone can know."""
        self._pressed[name] += 1

    def readings(self, at_s: float) -> list[Reading]:
        """Return the counts, as of ``at_s``."""
        return [Reading(name, float(count), at_s) for name, count in self._pressed.items()]
