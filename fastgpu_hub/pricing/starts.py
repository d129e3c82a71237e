"""When should this run? What each start costs, and which costs least. Pure.

What a start costs changes with its instant only where its beginning or its end touches an edge of some price, and in a
straight line between: the cheapest start touches one. Compared is the exact cost, before rounding, so that a start is
never put off for a saving that only rounding makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fastgpu_hub.pricing import metering
from fastgpu_hub.pricing.metering import GPU_HOUR, START, Line
from fastgpu_hub.pricing.money import MS_PER_HOUR
from fastgpu_hub.pricing.windows import DAY_NAMES, MS_PER_MINUTE, WeeklyWindow


@dataclass(frozen=True, slots=True)
class Start:
    """A start with its lines. ``exact`` is the cost before rounding, in micro-units times milliseconds per hour."""

    start_ms: int
    end_ms: int
    lines: tuple[Line, ...]
    exact: int

    @property
    def cost_micros(self) -> int:
        """What is held for it, in micro-units."""
        return metering.total_micros(self.lines)


def exact_cost(lines: Iterable[Line]) -> int:
    """What lines cost before rounding, in micro-units times milliseconds per hour."""
    return sum(line.rate_micros * (MS_PER_HOUR if line.unit == START else line.quantity) for line in lines)


def candidates(edges: Iterable[int], duration_ms: int, earliest_ms: int, latest_ms: int) -> list[int]:
    """The starts in ``[earliest_ms, latest_ms]`` whose beginning or end touches an edge, and both ends, ascending.

    Empty when the interval is.
    """
    found = {earliest_ms, latest_ms}
    for edge_ms in edges:
        found |= {edge_ms, edge_ms - duration_ms}
    return sorted(at_ms for at_ms in found if earliest_ms <= at_ms <= latest_ms)


def priced(
    edges: Iterable[int],
    duration_ms: int,
    earliest_ms: int,
    latest_ms: int,
    price: Callable[[int, int], Sequence[Line]],
) -> list[Start]:
    """The candidates with what ``price`` says of their intervals, ascending; the cheapest start is among them.

    A start's own price changes all at once at an edge: there the last minute before is a candidate as well.
    """

    def start_at(start_ms: int) -> Start:
        lines = tuple(price(start_ms, start_ms + duration_ms))
        return Start(start_ms, start_ms + duration_ms, lines, exact_cost(lines))

    found: list[Start] = []
    for start in map(start_at, candidates(edges, duration_ms, earliest_ms, latest_ms)):
        before_ms = start.start_ms - MS_PER_MINUTE
        if before_ms > earliest_ms and _starting(start) and before_ms > found[-1].start_ms:
            before = start_at(before_ms)
            if _starting(before) != _starting(start):
                found.append(before)
        found.append(start)
    return found


def _starting(start: Start) -> list[int]:
    return [line.rate_micros for line in start.lines if line.unit == START]


def cheapest_first(starts: Iterable[Start]) -> list[Start]:
    """By cost; of equals the earliest first."""
    return sorted(starts, key=lambda start: (start.exact, start.start_ms))


def frontier(starts: Sequence[Start]) -> list[Start]:
    """Those of ascending starts that cost less than every earlier one: to wait for any other is of no use."""
    found: list[Start] = []
    for start in starts:
        if not found or start.exact < found[-1].exact:
            found.append(start)
    return found


def decisive(start: Start, than: Start) -> Line | None:
    """The line of a start whose rule makes most of what it saves against another; None when it saves nothing."""
    if start.exact >= than.exact:
        return None
    gpu_lines = [line for line in than.lines if line.unit == GPU_HOUR]
    time = sum(line.quantity for line in gpu_lines)
    exact = exact_cost(gpu_lines)

    def saves(line: Line) -> int:
        return exact * line.quantity - line.rate_micros * line.quantity * time

    return max((line for line in start.lines if line.unit == GPU_HOUR), key=saves, default=None)


def hours_words(weekly: Sequence[WeeklyWindow], time_zone: str) -> str:
    """When weekly windows are open: ``20:00–06:00 Europe/Berlin``, ``Mon–Fri 08:00–12:00, Sat 00:00–24:00 UTC``.

    Empty when there is no window.
    """
    written = []
    for window in weekly:
        clock = f"{_clock(window.from_minute)}–{_clock(window.to_minute)}"
        written.append(f"{_days_words(window.days)} {clock}".strip())
    return f"{', '.join(written)} {time_zone}" if written else ""


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def _days_words(days: Sequence[int]) -> str:
    there = sorted(set(days))
    if len(there) == len(DAY_NAMES):
        return ""
    if len(there) > 2 and all(after == before + 1 for before, after in pairwise(there)):
        return f"{DAY_NAMES[there[0]]}–{DAY_NAMES[there[-1]]}"
    return ", ".join(DAY_NAMES[day] for day in there)
