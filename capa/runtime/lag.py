"""How late the loop is: a procedure that blocks it makes ramps late and a stop deaf."""

import time
from collections.abc import Callable

import trio

__all__ = ["LAG_WARN_S", "watch_lag"]

LAG_WARN_S = 0.5
"""Five ramp ticks: more than a busy machine explains, and long before a watchdog bites."""
_PERIOD_S = 0.25


async def watch_lag(on_lag: Callable[[float], None], since_s: float | None = None) -> None:
    """Call ``on_lag(lag_s)`` whenever the loop came round late; until cancelled.

    Measured with the wall's own seconds, not with trio's clock, which stands still in a test
    while something computes. A block that ends with the cancellation is reported too, and with
    ``since_s`` (of ``time.perf_counter``) one that began before this task had its first turn.
    """
    began_s = time.perf_counter() if since_s is None else since_s
    while True:
        try:
            await trio.sleep(_PERIOD_S)
        finally:
            lag_s = time.perf_counter() - began_s - _PERIOD_S
            if lag_s > LAG_WARN_S:
                on_lag(lag_s)
        began_s = time.perf_counter()
