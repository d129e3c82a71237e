"""What the pricing suites share: an independent reading of the clock, instants at which clocks jump, small builders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from random import Random
from zoneinfo import ZoneInfo

import pytest

from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.windows import WeeklyWindow

MINUTE_MS = 60_000
DAY_MS = 86_400_000


def utc_ms(text: str) -> int:
    """Milliseconds of a UTC instant written as ``2025-03-30 01:00``."""
    written = datetime.fromisoformat(text).replace(tzinfo=timezone.utc)
    return (
        (written - datetime(1970, 1, 1, tzinfo=timezone.utc)).days * DAY_MS
        + written.hour * 3_600_000
        + (written.minute * MINUTE_MS + written.second * 1000)
    )


# Where clocks jump: an hour, half an hour, a whole day (Apia has no 2011-12-30), over midnight (St John's until 2011),
# at midnight (Beirut, Havana); and a zone that never jumps, on 29 February.
JUMPS = (
    ("Europe/Berlin", "2025-03-30 01:00"),
    ("Europe/Berlin", "2025-10-26 01:00"),
    ("America/New_York", "2025-03-09 07:00"),
    ("America/New_York", "2025-11-02 06:00"),
    ("Australia/Lord_Howe", "2025-04-05 15:00"),
    ("Australia/Lord_Howe", "2025-10-04 15:30"),
    ("Asia/Kolkata", "2024-02-29 00:00"),
    ("Pacific/Apia", "2011-12-30 10:00"),
    ("Pacific/Apia", "2011-09-24 14:00"),
    ("America/St_Johns", "2010-11-07 02:31"),
    ("Asia/Beirut", "2022-03-26 22:00"),
    ("America/Havana", "2024-11-03 05:00"),
)


@dataclass(frozen=True)
class Jump:
    """An instant at which a zone's clock jumps (``at_ms``), and random hours that have to do with it."""

    time_zone: str
    at_ms: int

    def weekly(self, random: Random) -> tuple[WeeklyWindow, ...]:
        """One to three windows; about half of their edges lie within two hours of the jump, on either clock."""
        return tuple(
            WeeklyWindow(
                tuple(random.sample(range(7), random.randint(1, 7))), self._minute(random), self._minute(random)
            )
            for _ in range(random.randint(1, 3))
        )

    def _minute(self, random: Random) -> int:
        if random.random() < 0.5:
            return random.randrange(1440)
        clock = datetime.fromtimestamp(self.at_ms // 1000, ZoneInfo(self.time_zone))
        return (clock.hour * 60 + clock.minute + 15 * random.randint(-8, 8)) % 1440


def _shown(weekly: tuple[WeeklyWindow, ...], time_zone: str, at_ms: int) -> bool:
    clock = datetime.fromtimestamp(at_ms // 1000, ZoneInfo(time_zone))
    minute, today, yesterday = clock.hour * 60 + clock.minute, clock.weekday(), (clock.weekday() - 1) % 7
    for window in weekly:
        if window.from_minute < window.to_minute:
            if today in window.days and window.from_minute <= minute < window.to_minute:
                return True
        elif (today in window.days and minute >= window.from_minute) or (
            yesterday in window.days and minute < window.to_minute
        ):
            return True
    return False


@pytest.fixture(scope="session")
def at() -> Callable[[str], int]:
    return utc_ms


@pytest.fixture(scope="session")
def jump_of() -> Callable[[Random], Jump]:
    def choose(random: Random) -> Jump:
        time_zone, jump = random.choice(JUMPS)
        return Jump(time_zone, utc_ms(jump))

    return choose


@pytest.fixture(scope="session")
def shown() -> Callable[[tuple[WeeklyWindow, ...], str, int], bool]:
    """The oracle: is a time within one of the windows on the local clock? Knows nothing of edges or offsets."""
    return _shown


@pytest.fixture(scope="session")
def hours() -> Callable[..., Line]:
    """A ``gpu_hour`` line without promotion, its amount rounded down."""

    def build(from_ms: int, until_ms: int, rate_micros: int = 500_000, gpu_count: int = 1) -> Line:
        amount = gpu_count * rate_micros * (until_ms - from_ms) // 3_600_000
        return Line("gpu_hour", from_ms, until_ms, gpu_count, rate_micros, rate_micros, amount, 1)

    return build
