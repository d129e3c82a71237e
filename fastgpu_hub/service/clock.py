"""The time, as the broker takes it."""

from __future__ import annotations

import time


class SystemClock:
    """UTC milliseconds of this machine. When its clock is set back, time stands still here until it has caught up."""

    def __init__(self) -> None:
        self._latest = 0

    def now_ms(self) -> int:
        self._latest = max(self._latest, time.time_ns() // 1_000_000)
        return self._latest
