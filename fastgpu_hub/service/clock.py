"""The time, as the broker takes it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger("fastgpu.clock")
MOST_FOLLOWED_MS = 10_000


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _steady_ms() -> int:
    # Counts the time that the machine sleeps, where the system can.
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) // 1_000_000


class SystemClock:
    """UTC milliseconds of this machine, never backwards; for any thread.

    Corrections of a few seconds are followed, which makes time stand still at worst. A jump (an hour back, a day
    forward) is logged and not followed: nobody is billed for time that did not pass. A restart takes the new time.
    """

    def __init__(self, wall_ms: Callable[[], int] = _wall_ms, steady_ms: Callable[[], int] = _steady_ms) -> None:
        self._wall_ms, self._steady_ms = wall_ms, steady_ms
        self._offset_ms = wall_ms() - steady_ms()
        self._latest_ms = 0
        self._jumped = False

    def now_ms(self) -> int:
        """The time now, in UTC milliseconds since 1970."""
        steady_ms = self._steady_ms()
        offset_ms = self._wall_ms() - steady_ms
        jump_ms = offset_ms - self._offset_ms
        jumped = abs(jump_ms) > MOST_FOLLOWED_MS
        if not jumped:
            self._offset_ms = offset_ms
        elif not self._jumped:
            log.error(
                "this machine's clock jumped by %.0f s; the service counts on from before. When the new time is the "
                "right one, restart the service.",
                jump_ms / 1000,
            )
        self._jumped = jumped
        self._latest_ms = max(self._latest_ms, steady_ms + self._offset_ms)
        return self._latest_ms
