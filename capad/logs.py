"""Logs: structlog events on standard error, for the journal or for a terminal."""

import os
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger

__all__ = ["JournalRenderer", "configure_logs", "is_service"]

_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2, "exception": 3}


def is_service(environment: Mapping[str, str]) -> bool:
    """Whether a service manager listens to us."""
    return "NOTIFY_SOCKET" in environment or "JOURNAL_STREAM" in environment


def configure_logs(
    *, service: bool, level: str, stream: TextIO | None = None
) -> FilteringBoundLogger:
    """Set structlog up for the whole process and return the daemon's logger."""
    out = sys.stderr if stream is None else stream
    chain: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
    ]
    if service or not out.isatty():
        chain.append(JournalRenderer(priorities=service))
    else:
        chain += [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(colors="NO_COLOR" not in os.environ),
        ]
    structlog.configure(
        processors=chain,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    log: FilteringBoundLogger = structlog.get_logger("capad")
    return log


class JournalRenderer:
    """One line an event: ``<4>queue.held: what it means key=value``; ``<n>`` for the journal."""

    def __init__(self, *, priorities: bool) -> None:
        self._priorities = priorities

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
        """Render; every line of a longer text gets the priority, as the journal splits there."""
        level = str(event.pop("level", "info"))
        name, message = event.pop("event", ""), event.pop("message", None)
        trace = event.pop("exception", None) or event.pop("traceback", None)
        head = f"{name}: {message}" if message else str(name)
        pairs = [f"{key}={value}" for key, value in event.items() if value not in ("", None)]
        text = "\n".join(part for part in (" ".join([head, *pairs]), trace) if part)
        prefix = f"<{_PRIORITY.get(level, 6)}>" if self._priorities else f"{level:<8}"
        return "\n".join(prefix + line for line in text.splitlines())
