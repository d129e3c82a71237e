"""Instants as people write them: ``Fri 18:00``, ``tomorrow 8:00``, ``2026-11-27 18:00``, ``in 6h``. Pure.

They are read in the time zone of the service, unless they name one. A local time that the clock shows twice is its
first time; one that the clock skips is refused.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from fastgpu.errors import InvalidRequest
from fastgpu.formatting import format_date_time, one_line
from fastgpu.models import parse_duration

FORMS = 'Write for example "Fri 18:00", "tomorrow 8:00", "2026-11-27 18:00", "in 6h", or an instant with its zone.'

CHEAPEST: Final = "cheapest"
LONGEST_TEXT = 100
Moment = str | datetime

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_ZONE = re.compile(r"(?P<rest>.*\S)\s*(?P<zone>Z|[+-]\d{2}:?\d{2})", re.ASCII | re.IGNORECASE)
_NAMED_ZONE = re.compile(r"(?P<rest>.*\S)\s+(?P<zone>UTC|[A-Za-z_]+(?:/[A-Za-z0-9_+\-]+)+)", re.ASCII)
_DATE = re.compile(r"(?:[a-z]+\s+)?(?P<date>\d{4}-\d{2}-\d{2})(?:[T\s]\s*(?P<clock>.*))?", re.ASCII | re.IGNORECASE)
_DAY = re.compile(r"(?P<day>[a-z]+)(?:\s+at)?\s+(?P<clock>.*)", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d{1,6})?)?\s*(am|pm)?", re.ASCII)
_HOUR = re.compile(r"(\d{1,2})\s*(am|pm)", re.ASCII)
_IN = re.compile(r"(?:in\s+|\+\s*)(?P<duration>.+)", re.ASCII)


def read_moment(text: str, now: datetime, zone: tzinfo) -> datetime:
    """The instant that a person means, in the zone in which it was read.

    A weekday or a time of day alone is the next one to come. Raises InvalidRequest for what cannot be read, for a local
    time that does not exist, and for an instant that is not after ``now``, saying what it was read as.
    """
    shown = one_line(text)[:80]
    words = " ".join(text.split())
    try:
        if len(text) > LONGEST_TEXT:
            raise ValueError("too long")
        read_in, words = _own_zone(words, zone)
        moment = _read(words, now.astimezone(timezone.utc), read_in)
    except InvalidRequest:
        raise
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"cannot read {shown!r} as a point in time.", hint=FORMS) from error
    if moment <= now.astimezone(timezone.utc):
        raise InvalidRequest(
            f"{shown!r} was read as {written(moment)}, which is past (it is {written(now.astimezone(read_in))}).",
            hint="Write a later one, with its date where it is not the next such day.",
        )
    return moment


def written(moment: datetime) -> str:
    """An instant as it is shown back: ``Fri 27 Nov 2026, 18:00 CET``."""
    return format_date_time(moment, moment.tzinfo or timezone.utc)


@dataclass(frozen=True, slots=True)
class Timing:
    """When a job is to start, and by when it is to have ended."""

    start: Literal["now", "cheapest"] = "now"
    start_at: datetime | None = None
    by: datetime | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """As the submission names it."""
        return asdict(self)


AT_ONCE = Timing()


def needs_zone(*given: Moment | None) -> bool:
    """Whether one of these is an instant written by a person, who writes it in the service's time zone."""
    return any(isinstance(each, str) and each not in ("now", CHEAPEST) for each in given)


def timing_of(start: Moment, by: Moment | None, now: datetime, zone: tzinfo) -> Timing:
    """What a person means by a start (``now``, ``cheapest`` or an instant) and a deadline. Raises InvalidRequest."""
    deadline = None if by is None else moment_of(by, now, zone)
    if start == "now":
        return Timing(by=deadline)
    if start == CHEAPEST:
        return Timing(CHEAPEST, by=deadline)
    return Timing(start_at=moment_of(start, now, zone), by=deadline)


def moment_of(given: Moment, now: datetime, zone: tzinfo) -> datetime:
    """An instant, from what a person wrote or a program gave. Raises InvalidRequest."""
    if isinstance(given, str):
        return read_moment(given, now, zone)
    if given.tzinfo is None:
        raise InvalidRequest(
            f"{given.isoformat()} has no time zone.", hint=f"Write for example {written(now.astimezone(zone))} as text."
        )
    return given


def _own_zone(words: str, zone: tzinfo) -> tuple[tzinfo, str]:
    """The zone that the words name, else the given one; and the words without it."""
    if (match := _NAMED_ZONE.fullmatch(words)) is not None:
        try:
            return ZoneInfo(match["zone"]), match["rest"]
        except (KeyError, OSError) as error:
            raise ValueError("no such zone") from error
    # Only after a time of day: the end of a bare date looks like an offset.
    if (match := _ZONE.fullmatch(words)) is not None and re.search(r"\d:\d{2}", match["rest"]):
        offset = match["zone"].upper()
        if offset == "Z":
            return timezone.utc, match["rest"]
        hours, minutes = int(offset[1:3]), int(offset[-2:])
        behind = -1 if offset[0] == "-" else 1
        return timezone(behind * timedelta(hours=hours, minutes=minutes)), match["rest"]
    return zone, words


def _read(words: str, now: datetime, zone: tzinfo) -> datetime:
    """``now`` is in UTC: two times of one zone would be compared by what its clock shows."""
    today = now.astimezone(zone).date()
    if (match := _DATE.fullmatch(words)) is not None:
        if match["clock"] is None:
            raise InvalidRequest(f"{words!r} names a day but no time of day.", hint=FORMS)
        return _on(date.fromisoformat(match["date"]), match["clock"].lower(), zone)
    words = words.lower()
    if (match := _IN.fullmatch(words)) is not None:
        return (now + timedelta(seconds=parse_duration(match["duration"]))).astimezone(zone)
    if (match := _DAY.fullmatch(words)) is None:
        return _next(today, 1, words, now, zone)
    day, clock = match["day"], match["clock"]
    if day in ("today", "tonight"):
        return _on(today, clock, zone)
    if day == "tomorrow":
        return _on(today + timedelta(days=1), clock, zone)
    return _next(today + timedelta(days=(_weekday(day) - today.weekday()) % 7), 7, clock, now, zone)


def _next(day: date, step_days: int, clock: str, now: datetime, zone: tzinfo) -> datetime:
    moment = _on(day, clock, zone)
    return moment if moment > now else _on(day + timedelta(days=step_days), clock, zone)


def _weekday(name: str) -> int:
    found = [number for number, day in enumerate(_WEEKDAYS) if len(name) >= 2 and day.startswith(name)]
    if len(found) != 1:
        raise ValueError(f"{name} is not a day")
    return found[0]


def _on(day: date, clock: str, zone: tzinfo) -> datetime:
    """The instant at which the zone's clock shows this on that day; the first if it does so twice."""
    if clock == "24:00":
        day, clock = day + timedelta(days=1), "00:00"
    local = datetime.combine(day, _time(clock))
    moment = local.replace(tzinfo=zone)
    if moment.astimezone(timezone.utc).astimezone(zone).replace(tzinfo=None) != local:
        before, after = (local.replace(tzinfo=zone, fold=fold).astimezone(timezone.utc) for fold in (1, 0))
        raise InvalidRequest(
            f"the clock skips {local:%H:%M} on {local:%Y-%m-%d} ({zone}).",
            hint=f"Write {before.astimezone(zone):%Y-%m-%d %H:%M} or {after.astimezone(zone):%Y-%m-%d %H:%M}.",
        )
    return moment


def _time(clock: str) -> time:
    if (match := _CLOCK.fullmatch(clock)) is not None:
        hour, minute, second, half = int(match[1]), int(match[2]), int(match[3] or 0), match[4]
    elif (match := _HOUR.fullmatch(clock)) is not None:
        hour, minute, second, half = int(match[1]), 0, 0, match[2]
    else:
        raise ValueError("no time of day")
    if half is not None:
        if not 1 <= hour <= 12:
            raise ValueError("no hour of half a day")
        hour = hour % 12 + (12 if half == "pm" else 0)
    return time(hour, minute, second)
