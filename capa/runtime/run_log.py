"""A run's log: each record goes to the process's log and into the bundle's ``run.log``."""

import traceback
from collections.abc import Callable, Mapping
from typing import Any

from structlog.typing import FilteringBoundLogger

from capa.clock import utc_now

__all__ = ["RunLog"]


class RunLog:
    """The part of a structlog logger that procedures use, with a second destination."""

    def __init__(self, log: FilteringBoundLogger, **bound: object) -> None:
        self._log = log
        self._bound = bound
        self.write: Callable[[Mapping[str, Any]], None] | None = None
        """Takes a record for the bundle; None while there is no bundle."""

    def bind(self, **bound: object) -> "RunLog":
        """Return a log that adds these keys to each record."""
        other = RunLog(self._log, **{**self._bound, **bound})
        other.write = self.write
        return other

    def debug(self, event: str, **keys: object) -> None:
        """Record a detail."""
        self._put("debug", event, keys)

    def info(self, event: str, **keys: object) -> None:
        """Record what happened."""
        self._put("info", event, keys)

    def warning(self, event: str, **keys: object) -> None:
        """Record what is odd."""
        self._put("warning", event, keys)

    def error(self, event: str, **keys: object) -> None:
        """Record what went wrong."""
        self._put("error", event, keys)

    def exception(self, event: str, **keys: object) -> None:
        """Record what went wrong, with the traceback of the exception being handled."""
        self._put("error", event, {**keys, "traceback": traceback.format_exc()})

    def _put(self, level: str, event: str, keys: Mapping[str, Any]) -> None:
        record = {**self._bound, **keys}
        getattr(self._log, level)(event, **record)
        if self.write is not None:
            self.write({"t_utc": utc_now().isoformat(), "level": level, "event": event, **record})
