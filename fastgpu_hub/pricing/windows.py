"""Absolute and weekly windows in a named time zone, and calendar windows of quotas; all edges as UTC instants.

Two rules decide every daylight-saving question:

* A weekly window is open *while the local clock shows a time within it*. A repeated hour is inside both times it is
  shown; a skipped hour, or a skipped day, is never shown and so never inside.
* A calendar day begins at *the first instant at which the local clock shows that date or a later one*, and lasts until
  the next one begins. So days follow each other without gap or overlap, whatever the clock does around midnight.

Edges are found by walking over stretches of constant UTC offset, so the effort grows with days, never with seconds.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

MS_PER_MINUTE = 60_000
MS_PER_DAY = 86_400_000
MS_PER_WEEK = 7 * MS_PER_DAY
MAX_SPAN_MS = 400 * MS_PER_DAY
# 9000-01-01: calendars and offsets are only computed well within the years that datetime knows.
LATEST_MS = 221_845_392_000_000

# strftime's names follow the process's locale; what people read must not.
DAY_NAMES = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

_ZONE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+\-]*(?:/[A-Za-z0-9_+\-]+)*", re.ASCII)
# Names in the database that mean something else on every machine, or that count leap seconds.
_NO_ZONES = ("localtime", "posixrules", "posix", "right", "Factory")
_EPOCH = date(1970, 1, 1)
_EPOCH_WEEKDAY = _EPOCH.weekday()
_EARLIEST_S = (date(2, 1, 1) - _EPOCH).days * 86_400
_LATEST_S = (date(9999, 12, 29) - _EPOCH).days * 86_400
# No zone in the time zone database changes its offset twice within this time.
_OFFSET_STEP_MS = 6 * MS_PER_MINUTE * 60
# Longer than any pause of a weekly window, even when a zone skips the only day on which it opens.
_SEARCH_STEP_MS = 15 * MS_PER_DAY
# More than any UTC offset, plus a skipped day.
_OFFSET_REACH_MS = 2 * MS_PER_DAY


@dataclass(frozen=True, slots=True)
class WeeklyWindow:
    """Recurring local hours: ``days`` 0 = Monday … 6 = Sunday; ``to_minute <= from_minute`` runs past midnight.

    Raises ValueError for a day or minute that does not exist, and for no day at all.
    """

    days: tuple[int, ...]
    from_minute: int
    to_minute: int

    def __post_init__(self) -> None:
        if not self.days or any(not 0 <= day <= 6 for day in self.days):
            raise ValueError("a weekly window needs days, each 0 (Monday) to 6 (Sunday)")
        if not 0 <= self.from_minute <= 1439 or not 0 <= self.to_minute <= 1440:
            raise ValueError("a weekly window runs from minute 0-1439 to minute 0-1440 of the day")


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo:
    """The time zone of that name (``Europe/Berlin``, ``UTC``). Raises ValueError when there is none."""
    if len(name) > 64 or not _ZONE_NAME.fullmatch(name) or name.split("/")[0] in _NO_ZONES:
        raise ValueError(f"{name[:64]!r} is not the name of a time zone")
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"{name!r} is not a known time zone; write for example Europe/Berlin") from error


def when(at_ms: int, time_zone: str) -> str:
    """An instant for people, as the clock in that zone shows it: ``2025-03-14 18:00 Europe/Berlin``."""
    return f"{_local(time_zone, at_ms):%Y-%m-%d %H:%M} {time_zone}"


def day_and_time(at_ms: int, time_zone: str) -> str:
    """As :func:`when`, with the day of the week: ``Fri 2025-03-14 18:00 Europe/Berlin``."""
    return f"{DAY_NAMES[_local(time_zone, at_ms).weekday()]} {when(at_ms, time_zone)}"


def active(starts_ms: int, ends_ms: int, weekly: tuple[WeeklyWindow, ...], time_zone: str, at_ms: int) -> bool:
    """Whether ``at_ms`` is in ``[starts_ms, ends_ms)`` and, if there are weekly windows, within one of them."""
    if not starts_ms <= at_ms < ends_ms:
        return False
    if not weekly:
        return True
    return bisect_right(_week_edges(weekly), _week_ms(at_ms + _offset_ms(time_zone, at_ms))) % 2 == 1


def edges(
    starts_ms: int,
    ends_ms: int,
    weekly: tuple[WeeklyWindow, ...],
    time_zone: str,
    from_ms: int,
    until_ms: int,
) -> list[int]:
    """Instants strictly inside ``(from_ms, until_ms)`` at which :func:`active` changes, ascending.

    Raises ValueError when the interval is longer than 400 days.
    """
    _check_span(from_ms, until_ms)
    if starts_ms >= ends_ms:
        return []
    candidates = {starts_ms, ends_ms}
    if weekly:
        candidates.update(_weekly_candidates(weekly, time_zone, max(from_ms, starts_ms), min(until_ms, ends_ms)))
    found: list[int] = []
    state = active(starts_ms, ends_ms, weekly, time_zone, from_ms)
    for at_ms in sorted(candidates):
        if from_ms < at_ms < until_ms and active(starts_ms, ends_ms, weekly, time_zone, at_ms) != state:
            state = not state
            found.append(at_ms)
    return found


def next_change(
    starts_ms: int, ends_ms: int, weekly: tuple[WeeklyWindow, ...], time_zone: str, at_ms: int
) -> int | None:
    """The first instant after ``at_ms`` at which :func:`active` changes; None when it never does again."""
    if at_ms >= ends_ms or starts_ms >= ends_ms:
        return None
    if not weekly or _week_edges(weekly) == (0, MS_PER_WEEK):
        return starts_ms if at_ms < starts_ms else ends_ms
    searched_ms = max(at_ms, starts_ms - 1)
    while searched_ms < ends_ms:
        until_ms = min(searched_ms + _SEARCH_STEP_MS, ends_ms + 1)
        found = edges(starts_ms, ends_ms, weekly, time_zone, searched_ms, until_ms)
        if found:
            return found[0]
        searched_ms = until_ms - 1 if until_ms <= ends_ms else ends_ms
    return None


def calendar_window(window: str, time_zone: str, at_ms: int) -> tuple[int | None, int | None]:
    """The local ``day``, ``week`` (from Monday) or ``month`` that ``at_ms`` lies in, as ``[from, until)``.

    ``always`` has neither beginning nor end: ``(None, None)``. Raises ValueError for any other window.
    """
    if window == "always":
        return None, None
    first = _period_begin(window, _local(time_zone, at_ms).date())
    from_ms = _day_begins(time_zone, first)
    while True:
        first = _next_period(window, first)
        until_ms = _day_begins(time_zone, first)
        if at_ms < until_ms:
            return from_ms, until_ms
        from_ms = until_ms  # the clock was put back across midnight: the date shown had already ended


def calendar_edges(window: str, time_zone: str, from_ms: int, until_ms: int) -> list[int]:
    """Instants strictly inside ``(from_ms, until_ms)`` at which a new calendar window begins, ascending.

    Raises ValueError for an unknown window and when the interval is longer than 400 days.
    """
    _check_span(from_ms, until_ms)
    found: list[int] = []
    _, edge_ms = calendar_window(window, time_zone, from_ms)
    while edge_ms is not None and edge_ms < until_ms:
        found.append(edge_ms)
        _, edge_ms = calendar_window(window, time_zone, edge_ms)
    return found


def offset_changes(time_zone: str, from_ms: int, until_ms: int) -> list[int]:
    """Instants strictly inside ``(from_ms, until_ms)`` at which the zone's UTC offset changes, ascending.

    Raises ValueError when the interval is longer than 400 days.
    """
    _check_span(from_ms, until_ms)
    return [begin_ms for begin_ms, _, _ in _offsets(time_zone, from_ms, until_ms)][1:]


def _check_span(from_ms: int, until_ms: int) -> None:
    if until_ms - from_ms > MAX_SPAN_MS:
        raise ValueError("an interval must not be longer than 400 days")


def _local(time_zone: str, at_ms: int) -> datetime:
    # Clamped so that an offset never leads out of the years that datetime knows.
    return datetime.fromtimestamp(min(max(at_ms // 1000, _EARLIEST_S), _LATEST_S), zone(time_zone))


def _offset_ms(time_zone: str, at_ms: int) -> int:
    offset = _local(time_zone, at_ms).utcoffset()
    assert offset is not None
    return (offset.days * 86_400 + offset.seconds) * 1000


def _offsets(time_zone: str, from_ms: int, until_ms: int) -> Iterator[tuple[int, int, int]]:
    """Stretches ``(from, until, offset)`` of constant UTC offset that together are ``[from_ms, until_ms)``."""
    begin_ms = at_ms = from_ms
    offset = _offset_ms(time_zone, from_ms)
    while at_ms < until_ms:
        ahead_ms = min(at_ms + _OFFSET_STEP_MS, until_ms)
        if _offset_ms(time_zone, ahead_ms) == offset:
            at_ms = ahead_ms
            continue
        same_ms, changed_ms = at_ms, ahead_ms
        while changed_ms - same_ms > 1:
            middle_ms = (same_ms + changed_ms) // 2
            if _offset_ms(time_zone, middle_ms) == offset:
                same_ms = middle_ms
            else:
                changed_ms = middle_ms
        yield begin_ms, changed_ms, offset
        begin_ms = at_ms = changed_ms
        offset = _offset_ms(time_zone, changed_ms)
    if begin_ms < until_ms:
        yield begin_ms, until_ms, offset


def _week_ms(wall_ms: int) -> int:
    """Milliseconds since local Monday 00:00 of a wall time (UTC instant plus offset)."""
    return (wall_ms + _EPOCH_WEEKDAY * MS_PER_DAY) % MS_PER_WEEK


@lru_cache(maxsize=1024)
def _week_edges(weekly: tuple[WeeklyWindow, ...]) -> tuple[int, ...]:
    """Union of the windows in milliseconds of the week, as opening, closing, opening, closing …"""
    spans: list[tuple[int, int]] = []
    for window in weekly:
        minutes = window.to_minute - window.from_minute
        length = (minutes if minutes > 0 else minutes + 1440) * MS_PER_MINUTE
        for day in window.days:
            begin = day * MS_PER_DAY + window.from_minute * MS_PER_MINUTE
            spans.append((begin, min(begin + length, MS_PER_WEEK)))
            if begin + length > MS_PER_WEEK:
                spans.append((0, begin + length - MS_PER_WEEK))
    merged: list[int] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1]:
            merged[-1] = max(merged[-1], end)
        else:
            merged += (begin, end)
    return tuple(merged)


def _weekly_candidates(weekly: tuple[WeeklyWindow, ...], time_zone: str, from_ms: int, until_ms: int) -> Iterator[int]:
    """Every instant in the interval at which the local clock passes an edge of the week, or jumps."""
    week_edges = _week_edges(weekly)
    for begin_ms, end_ms, offset in _offsets(time_zone, from_ms, until_ms):
        yield begin_ms
        into_week = _week_ms(begin_ms + offset)
        monday_ms = begin_ms - into_week
        index = bisect_left(week_edges, into_week)
        while True:
            if index == len(week_edges):
                index, monday_ms = 0, monday_ms + MS_PER_WEEK
            at_ms = monday_ms + week_edges[index]
            if at_ms >= end_ms:
                break
            yield at_ms
            index += 1


@lru_cache(maxsize=4096)
def _day_begins(time_zone: str, day: date) -> int:
    """The first instant at which the local clock shows ``day`` or a later date."""
    midnight_ms = (day - _EPOCH).days * MS_PER_DAY
    for begin_ms, end_ms, offset in _offsets(time_zone, midnight_ms - _OFFSET_REACH_MS, midnight_ms + _OFFSET_REACH_MS):
        at_ms = max(begin_ms, midnight_ms - offset)
        if at_ms < end_ms:
            return at_ms
    raise AssertionError("every local date begins within two days of its UTC midnight")


def _period_begin(window: str, day: date) -> date:
    if window == "day":
        return day
    if window == "week":
        return day - timedelta(days=day.weekday())
    if window == "month":
        return day.replace(day=1)
    raise ValueError(f"a calendar window is day, week, month or always, not {window!r}")


def _next_period(window: str, first: date) -> date:
    if window == "month":
        return (first + timedelta(days=31)).replace(day=1)
    return first + timedelta(days=7 if window == "week" else 1)
