"""Files that a profile names: a relative path counts from the profile's own folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["files_beside"]


def files_beside(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a profile's data with its devices' ``.toml`` options as absolute paths.

    A register map is such an option. Anything of an unexpected shape is left as it is: what
    checks the profile says what is wrong with it.
    """
    devices = data.get("devices")
    if not isinstance(devices, list):
        return data
    return {**data, "devices": [_device(device, folder) for device in devices]}


def _device(device: object, folder: Path) -> object:
    if not isinstance(device, Mapping) or not isinstance(device.get("options"), Mapping):
        return device
    options = {key: _path(value, folder) for key, value in device["options"].items()}
    return {**device, "options": options}


def _path(value: object, folder: Path) -> object:
    if isinstance(value, str) and value.endswith(".toml"):
        return str(folder.absolute() / value)
    return value
