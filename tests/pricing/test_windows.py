"""Windows: equal to reading the local clock minute by minute, through every jump; hostile ones cost nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgpu_hub.pricing.windows import (
    WeeklyWindow,
    active,
    calendar_edges,
    calendar_window,
    edges,
    next_change,
    when,
    zone,
)

MINUTE_MS = 60_000
DAY_MS = 86_400_000
END_OF_TIME_MS = 253_402_300_799_999  # 9999-12-31 23:59:59.999
NIGHTS = (WeeklyWindow((0, 1, 2, 3, 4), 22 * 60, 6 * 60),)


# True randomness, for small examples are the least telling ones here: few edges, all far from the jump.
RANDOMS = st.randoms(use_true_random=True)


@settings(deadline=None, max_examples=120)
@given(random=RANDOMS)
def test_windows_and_edges_equal_reading_the_clock_every_minute(
    random: Random, jump_of: Callable[[Random], Any], shown: Callable[..., bool]
) -> None:
    jump = jump_of(random)
    weekly = jump.weekly(random)
    from_ms = jump.at_ms - random.randint(0, 1440) * MINUTE_MS
    until_ms = jump.at_ms + random.randint(1, 1440) * MINUTE_MS
    starts_ms = random.choice([0, 0, 0, random.randint(from_ms, until_ms)])
    ends_ms = random.choice([10**15, 10**15, 10**15, random.randint(from_ms, until_ms)])

    def oracle(at_ms: int) -> bool:
        return starts_ms <= at_ms < ends_ms and shown(weekly, jump.time_zone, at_ms)

    instants = {*range(from_ms + MINUTE_MS, until_ms, MINUTE_MS), starts_ms, ends_ms}
    expected: list[int] = []
    state = oracle(from_ms)
    for at_ms in sorted(instant for instant in instants if from_ms < instant < until_ms):
        if oracle(at_ms) != state:
            state = not state
            expected.append(at_ms)
            assert active(starts_ms, ends_ms, weekly, jump.time_zone, at_ms) == state
            assert active(starts_ms, ends_ms, weekly, jump.time_zone, at_ms - 1) != state
    assert edges(starts_ms, ends_ms, weekly, jump.time_zone, from_ms, until_ms) == expected
    following = next_change(starts_ms, ends_ms, weekly, jump.time_zone, from_ms)
    if expected:
        assert following == expected[0]
    else:
        assert following is None or following >= until_ms


def _first_day(window: str, day: date) -> date:
    if window == "month":
        return day.replace(day=1)
    return day - timedelta(days=day.weekday()) if window == "week" else day


@settings(deadline=None, max_examples=80)
@given(random=RANDOMS)
def test_calendar_windows_begin_when_the_clock_first_shows_the_date_or_a_later_one(
    random: Random, jump_of: Callable[[Random], Any]
) -> None:
    jump, window = jump_of(random), random.choice(["day", "day", "week", "month"])
    from_ms = jump.at_ms - random.randint(0, 3 * 1440) * MINUTE_MS
    until_ms = jump.at_ms + random.randint(1, 3 * 1440) * MINUTE_MS
    local = ZoneInfo(jump.time_zone)
    latest, expected = date.min, []
    # From a day earlier on, so that a date already shown before a jump back is known.
    for at_ms in range(from_ms - 1440 * MINUTE_MS, until_ms, MINUTE_MS):
        first = _first_day(window, datetime.fromtimestamp(at_ms // 1000, local).date())
        if first > latest:
            if latest != date.min and at_ms > from_ms:
                expected.append(at_ms)
            latest = first
    assert calendar_edges(window, jump.time_zone, from_ms, until_ms) == expected
    for before_ms, edge_ms in zip([from_ms, *expected], [*expected, None], strict=True):
        begin_ms, end_ms = calendar_window(window, jump.time_zone, before_ms)
        assert begin_ms is not None
        assert end_ms is not None
        assert begin_ms <= before_ms < end_ms
        assert edge_ms in (None, end_ms)
        assert calendar_window(window, jump.time_zone, end_ms - 1) == (begin_ms, end_ms)


def test_a_repeated_hour_is_inside_both_times(at: Callable[[str], int]) -> None:
    window = (WeeklyWindow((6,), 150, 160),)  # Sunday 02:30-02:40, shown twice on 2025-10-26 in Berlin
    from_ms, until_ms = at("2025-10-25 12:00"), at("2025-10-26 12:00")
    found = edges(0, END_OF_TIME_MS, window, "Europe/Berlin", from_ms, until_ms)
    assert found == [at(f"2025-10-26 {text}") for text in ("00:30", "00:40", "01:30", "01:40")]


@pytest.mark.parametrize(
    ("from_minute", "to_minute", "expected"),
    [
        (135, 300, ["01:00", "03:00"]),  # 02:15 is skipped: it opens when the clock jumps to 03:00
        (60, 165, ["00:00", "01:00"]),  # 02:45 is skipped: it closes when the clock jumps to 03:00
    ],
)
def test_an_edge_within_a_skipped_hour_is_the_jump(
    from_minute: int, to_minute: int, expected: list[str], at: Callable[[str], int]
) -> None:
    window = (WeeklyWindow((6,), from_minute, to_minute),)
    found = edges(0, 10**15, window, "Europe/Berlin", at("2025-03-29 20:00"), at("2025-03-30 12:00"))
    assert found == [at(f"2025-03-30 {text}") for text in expected]


def test_a_day_whose_midnight_is_skipped_begins_at_the_jump(at: Callable[[str], int]) -> None:
    found = calendar_edges("day", "Asia/Beirut", at("2022-03-26 00:00"), at("2022-03-28 00:00"))
    assert found == [at("2022-03-26 22:00"), at("2022-03-27 21:00")]


def test_a_date_shown_twice_has_begun_the_first_time(at: Callable[[str], int]) -> None:
    # At 00:01 the clock went back to 23:01: one minute of the 7th, an hour of the 6th again, then the 7th.
    whole_day = (at("2010-11-07 02:30"), at("2010-11-08 03:30"))
    for shown_at in ("02:30", "02:31", "03:29", "03:30"):
        assert calendar_window("day", "America/St_Johns", at(f"2010-11-07 {shown_at}")) == whole_day


def test_sunday_night_runs_into_monday() -> None:
    sunday = 3 * DAY_MS
    found = edges(0, 10**15, (WeeklyWindow((6,), 1320, 120),), "UTC", sunday, sunday + 3 * DAY_MS)
    assert found == [sunday + 22 * 60 * MINUTE_MS, sunday + 26 * 60 * MINUTE_MS]


def test_windows_within_and_beside_each_other_are_one() -> None:
    weekly = tuple(WeeklyWindow((0,), *minutes) for minutes in ((60, 600), (120, 180), (600, 660)))
    monday = 4 * DAY_MS
    assert edges(0, 10**15, weekly, "UTC", monday, monday + DAY_MS) == [
        monday + 60 * MINUTE_MS,
        monday + 660 * MINUTE_MS,
    ]


def test_a_skipped_hour_and_a_skipped_day_never_open(at: Callable[[str], int]) -> None:
    skipped_hour = (WeeklyWindow((6,), 150, 160),)
    assert not edges(0, END_OF_TIME_MS, skipped_hour, "Europe/Berlin", at("2025-03-29 12:00"), at("2025-03-30 12:00"))
    friday = (WeeklyWindow((4,), 0, 1440),)
    jump = at("2011-12-30 10:00")
    assert not edges(0, END_OF_TIME_MS, friday, "Pacific/Apia", jump - 3 * DAY_MS, jump + 3 * DAY_MS)


def test_a_day_that_does_not_exist_is_nobodys_quota_window(at: Callable[[str], int]) -> None:
    jump = at("2011-12-30 10:00")
    assert calendar_edges("day", "Pacific/Apia", jump - DAY_MS - 1, jump + DAY_MS + 1) == [
        jump - DAY_MS,
        jump,
        jump + DAY_MS,
    ]


def test_a_window_that_ends_where_it_begins_is_a_whole_day_from_there() -> None:
    assert edges(0, END_OF_TIME_MS, (WeeklyWindow((3,), 720, 720),), "UTC", 0, 7 * DAY_MS) == [
        DAY_MS // 2,
        DAY_MS + DAY_MS // 2,
    ]


def test_windows_that_cover_the_week_have_no_edges() -> None:
    every_day = (WeeklyWindow((0, 2, 4, 6), 0, 0), WeeklyWindow((1, 3, 5), 0, 1440))
    assert edges(0, 10**15, every_day, "Europe/Berlin", DAY_MS, 300 * DAY_MS) == []
    assert next_change(0, 10**15, every_day, "Europe/Berlin", DAY_MS) == 10**15


def test_an_always_window_has_no_calendar() -> None:
    assert calendar_window("always", "Europe/Berlin", 0) == (None, None)
    assert calendar_edges("always", "Europe/Berlin", 0, DAY_MS) == []


def test_hostile_windows_answer_at_once() -> None:
    began = time.process_time()
    assert next_change(0, END_OF_TIME_MS, NIGHTS, "Europe/Berlin", END_OF_TIME_MS - 1) == END_OF_TIME_MS
    assert next_change(END_OF_TIME_MS - 2, END_OF_TIME_MS, NIGHTS, "Europe/Berlin", 0) == END_OF_TIME_MS - 2
    assert next_change(-(10**17), 10**17, NIGHTS, "Pacific/Apia", 0) is not None
    assert next_change(5, 5, NIGHTS, "Europe/Berlin", 0) is None
    assert not active(5, 5, (), "UTC", 5)
    assert edges(5, 5, NIGHTS, "UTC", 0, 100) == []
    assert edges(9, 5, (), "UTC", 0, 100) == []
    assert "9999" in when(END_OF_TIME_MS, "Pacific/Apia")
    for span in (edges, calendar_edges):
        arguments = (0, END_OF_TIME_MS, NIGHTS, "UTC") if span is edges else ("day", "UTC")
        with pytest.raises(ValueError, match="400 days"):
            span(*arguments, 0, 3650 * DAY_MS)  # type: ignore[operator]
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "name",
    [
        *("", "Mars/Olympus", "Europe", "../etc/passwd", "/etc/passwd", "Europe/../UTC", "A" * 5000, "UTC\0", "\ud800"),
        *("localtime", "right/UTC", "Europe/Berlin "),
    ],
)
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="time zone"):
        zone(name)


@pytest.mark.parametrize(
    ("days", "from_minute", "to_minute"), [((), 0, 60), ((7,), 0, 60), ((-1,), 0, 60), ((0,), 1440, 0), ((0,), 0, 1441)]
)
def test_hours_that_do_not_exist_are_refused(days: tuple[int, ...], from_minute: int, to_minute: int) -> None:
    with pytest.raises(ValueError, match="weekly window"):
        WeeklyWindow(days, from_minute, to_minute)


def test_an_unknown_calendar_window_is_refused() -> None:
    with pytest.raises(ValueError, match="fortnight"):
        calendar_window("fortnight", "UTC", 0)


def test_an_instant_is_written_as_the_local_clock_shows_it(at: Callable[[str], int]) -> None:
    assert when(at("2025-03-14 17:00"), "Europe/Berlin") == "2025-03-14 18:00 Europe/Berlin"
