"""Instants as people write them: read in the service's zone, shown back with it, refused when they make no sense."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from fastgpu.deadlines import read_moment, written
from fastgpu.errors import InvalidRequest

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=timezone.utc)  # a Wednesday, 13:00 in Berlin
ZONES = st.sampled_from(
    ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Apia", "UTC"]
).map(ZoneInfo)
MINUTES = st.integers(0, 20 * 366 * 24 * 60).map(
    lambda minutes: datetime(2010, 1, 1, tzinfo=timezone.utc) + timedelta(minutes=minutes)
)
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Fri 18:00", "Fri 27 Nov 2026, 18:00 CET"),
        ("friday at 6pm", "Fri 27 Nov 2026, 18:00 CET"),
        ("Wed 14:00", "Wed 25 Nov 2026, 14:00 CET"),
        ("Wed 13:00", "Wed 2 Dec 2026, 13:00 CET"),
        ("tomorrow 8:00", "Thu 26 Nov 2026, 08:00 CET"),
        ("tonight 20:00", "Wed 25 Nov 2026, 20:00 CET"),
        ("today 24:00", "Thu 26 Nov 2026, 00:00 CET"),
        ("12:30 am", "Thu 26 Nov 2026, 00:30 CET"),
        ("  18:00 ", "Wed 25 Nov 2026, 18:00 CET"),
        ("8:00", "Thu 26 Nov 2026, 08:00 CET"),
        ("2026-11-27 18:00", "Fri 27 Nov 2026, 18:00 CET"),
        ("2026-11-27T18:00:00Z", "Fri 27 Nov 2026, 18:00 UTC"),
        ("2026-11-27 18:00 +05:30", "Fri 27 Nov 2026, 18:00 UTC+05:30"),
        ("Fri 2026-11-27 18:00 America/New_York", "Fri 27 Nov 2026, 18:00 EST"),
        ("Fri 18:00 UTC", "Fri 27 Nov 2026, 18:00 UTC"),
        ("in 6h", "Wed 25 Nov 2026, 19:00 CET"),
        ("+1d", "Thu 26 Nov 2026, 13:00 CET"),
        ("2027-10-31 02:30", "Sun 31 Oct 2027, 02:30 CEST"),  # shown twice: the first
    ],
)
def test_it_is_read_as_a_person_means_it_and_shown_back_with_its_zone(text: str, read: str) -> None:
    assert written(read_moment(text, NOW, BERLIN)) == read


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("today 8:00", "was read as Wed 25 Nov 2026, 08:00 CET, which is past (it is Wed 25 Nov 2026, 13:00 CET)"),
        ("2020-01-01 10:00", "Wed 1 Jan 2020, 10:00 CET, which is past"),
        ("2027-03-28 02:30", "skips 02:30 on 2027-03-28 (Europe/Berlin). Write 2027-03-28 01:30 or 2027-03-28 03:30."),
        ("2026-11-27", "names a day but no time of day"),
        ("soon", "cannot read 'soon'"),
        ("", "cannot read ''"),
        ("18", "cannot read"),
        ("25:00", "cannot read"),
        ("13pm", "cannot read"),
        ("2026-02-30 10:00", "cannot read"),
        ("2026-11-27 18:00 Mars/Olympus", "cannot read"),
        ("9999-12-31 24:00", "cannot read"),
        ("t 18:00", "cannot read"),
        ("in 1e9h", "cannot read"),
        ("Fri 18:00\x1b[31m", "cannot read"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_it_was_read_as(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_moment(text, NOW, BERLIN)
    assert says in str(caught.value)
    assert "\x1b" not in str(caught.value)


@given(st.text(max_size=40), ZONES)
def test_no_text_breaks_it(text: str, zone: ZoneInfo) -> None:
    with suppress(InvalidRequest):
        assert read_moment(text, NOW, zone) > NOW


@given(MINUTES, st.integers(1, 10**6), ZONES)
def test_an_instant_with_its_zone_is_itself_wherever_it_is_read(now: datetime, minutes: int, zone: ZoneInfo) -> None:
    moment = (now + timedelta(minutes=minutes)).astimezone(zone)
    for text in (moment.isoformat(), moment.isoformat(" ", "minutes"), f"in {minutes}m"):
        if not text.startswith("in ") or minutes <= 366 * 24 * 60:
            assert read_moment(text, now, BERLIN) == moment


@given(MINUTES, ZONES, st.sampled_from(DAYS), st.integers(0, 1439))
def test_a_weekday_is_the_next_on_which_the_clock_shows_that(
    now: datetime, zone: ZoneInfo, day: str, minute: int
) -> None:
    clock = f"{minute // 60:02d}:{minute % 60:02d}"
    try:
        moment = read_moment(f"{day} {clock}", now, zone)
    except InvalidRequest:
        event("the clock skips it")
        return
    assert f"{moment:%H:%M}" == clock
    assert DAYS[moment.weekday()] == day
    assert now < moment.astimezone(timezone.utc) <= now + timedelta(days=8, hours=2)
    week_before = (moment.replace(tzinfo=None, fold=0) - timedelta(days=7)).replace(tzinfo=zone)
    exists = week_before.astimezone(timezone.utc).astimezone(zone).replace(tzinfo=None) == week_before.replace(
        tzinfo=None
    )
    assert not exists or week_before.astimezone(timezone.utc) <= now
