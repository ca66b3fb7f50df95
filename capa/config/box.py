"""Where a box has its things, where nothing says otherwise."""

from pathlib import Path

__all__ = ["BOX_RUNTIME_DIR", "BOX_SETTINGS", "BOX_SPOOL"]

BOX_SETTINGS = Path("/etc/capad/capad.toml")
"""The daemon's settings; the tool ``capa`` shows and changes what the daemon goes by."""
BOX_RUNTIME_DIR = Path("/run/capad")
BOX_SPOOL = Path("/var/lib/capad/spool")
