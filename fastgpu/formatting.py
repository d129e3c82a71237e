"""The one formatter of every client surface: money, durations, bytes and instants, in a person's words.

Pure apart from the machine's time zone. Money is integer micro-units, durations seconds, memory bytes.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timezone, tzinfo
from decimal import Decimal, InvalidOperation

MICROS_PER_UNIT = 1_000_000
NO_VALUE = "—"

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI … final byte: colours, cursor movement
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"  # OSC, DCS, SOS, PM, APC: titles, links, device strings
    r"|\x1b[ -/]*[0-~]",
    re.DOTALL,
)
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MONEY = re.compile(r"^\d{1,15}(\.\d{1,6})?$", re.ASCII)


def format_money(micros: int, currency: str = "") -> str:
    """An amount with at least two and at most six decimals: ``16.00``, ``0.42 credits``, ``0.000001``."""
    sign = "-" if micros < 0 else ""
    units, rest = divmod(abs(micros), MICROS_PER_UNIT)
    decimals = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"{sign}{units}.{decimals} {currency}".rstrip()


def parse_money(value: str | int | Decimal) -> int:
    """Micro-units of an amount in whole units (``"2.50"`` -> 2 500 000).

    Raises TypeError on a float (which cannot hold most amounts exactly) or a bool, and ValueError on anything that is
    not a plain amount of at least 0 with at most six decimals.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise TypeError(f"write an amount as text, for example '2.50', not as {type(value).__name__}")
    text = format(value, "f") if isinstance(value, Decimal) else str(value).strip()
    if not _MONEY.match(text):
        raise ValueError(f"cannot read {text!r} as an amount; write for example 2.50 (at most six decimals)")
    try:
        return int(Decimal(text) * MICROS_PER_UNIT)
    except InvalidOperation as error:  # beyond decimal's precision
        raise ValueError(f"the amount {text!r} is too large") from error


def format_rate(micros_per_hour: int, currency: str = "") -> str:
    """A price per hour: ``0.50 credits/h``."""
    return f"{format_money(micros_per_hour, currency)}/h"


def format_duration(seconds: float | None) -> str:
    """The two largest units of a duration: ``2 h 10 min``, ``45 s``, ``3 d 4 h``; a dash when it is unknown."""
    if seconds is None:
        return NO_VALUE
    whole = max(0, math.floor(seconds))
    sizes = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for place, (unit, size) in enumerate(sizes):
        if whole >= size:
            text = f"{whole // size} {unit}"
            if place + 1 < len(sizes):
                smaller, smaller_size = sizes[place + 1]
                if left := whole % size // smaller_size:
                    text += f" {left} {smaller}"
            return text
    return "0 s"


def format_bytes(size: int | None) -> str:
    """A size in binary units: ``512 B``, ``18.2 GiB``; a dash when it is unknown."""
    if size is None:
        return NO_VALUE
    if abs(size) < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if abs(value) < 1023.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def format_percent(percent: int | None) -> str:
    """``63 %``, or a dash when a device does not tell."""
    return NO_VALUE if percent is None else f"{percent} %"


def format_fraction(fraction: float | None) -> str:
    """Progress 0–1 as whole percent, rounded down so that 100 % means finished."""
    return NO_VALUE if fraction is None else f"{math.floor(min(1.0, max(0.0, fraction)) * 100)} %"


def format_instant(when: datetime | None, *, now: datetime | None = None, zone: tzinfo | None = None) -> str:
    """An instant in local words with its zone: ``today 18:00 CET``, ``tomorrow 08:30 UTC``, ``Fri 5 Dec 18:00 CET``.

    ``zone`` defaults to this machine's; ``now`` decides what "today" means and defaults to the present.
    """
    if when is None:
        return NO_VALUE
    local = when.astimezone(zone)
    today = (now or datetime.now(timezone.utc)).astimezone(zone)
    days = (local.date() - today.date()).days
    clock = f"{local:%H:%M} {local.tzname() or 'UTC'}"
    if days in (-1, 0, 1):
        return f"{('yesterday', 'today', 'tomorrow')[days + 1]} {clock}"
    year = "" if local.year == today.year else f" {local.year}"
    return f"{_DAYS[local.weekday()]} {local.day} {_MONTHS[local.month - 1]}{year} {clock}"


def format_utc(when: datetime) -> str:
    """An instant for a snapshot that outlives its day: ``2025-11-21 17:03:20 UTC``."""
    return f"{when.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def clean_text(text: str) -> str:
    """Text without terminal escape sequences, control and direction characters; newlines, tabs and returns stay."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


def one_line(text: str) -> str:
    """Clean text on a single line."""
    return " ".join(clean_text(text).split())


# strftime's names follow the process's locale; screens and tests must not.
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
