"""The one formatter of every client surface: money, durations, bytes and instants, in a person's words.

Pure apart from the machine's time zone. Money is integer micro-units, durations seconds, memory bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
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


def format_money(micros: int, currency: str = "", *, decimals: int = 2) -> str:
    """An exact amount with ``decimals`` to six decimals: ``16.00``, ``0.42 credits``, ``0.000001``.

    For prices, quotes and receipts; where people only look, :func:`format_amount` is easier on the eye.
    """
    sign = "-" if micros < 0 else ""
    units, rest = divmod(abs(micros), MICROS_PER_UNIT)
    fraction = f"{rest:06d}".rstrip("0").ljust(decimals, "0")
    return f"{sign}{units}.{fraction} {currency}".rstrip()


def decimals_of(amounts: Iterable[int]) -> int:
    """How many decimals show all these micro-units exactly, so that a column of them lines up: 2 to 6."""
    return max((len(format_money(micros).partition(".")[2]) for micros in amounts), default=2)


def format_amount(micros: int, currency: str = "") -> str:
    """An amount at a glance, always with two decimals, rounded; but more than nothing never reads as nothing.

    ``99.33 credits``, ``< 0.01``. The exact amount is on the receipt and in plain data.
    """
    cent = MICROS_PER_UNIT // 100
    if 0 < micros < cent:
        return f"< 0.01 {currency}".rstrip()
    return format_money((micros + cent // 2) // cent * cent, currency)


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
    """A size in binary units: ``512 B``, ``18.2 GiB``, ``80 GiB``; a dash when it is unknown."""
    if size is None:
        return NO_VALUE
    if abs(size) < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if abs(value) < 1023.95:
            return f"{_one_decimal(value)} {unit}"
    return f"{_one_decimal(value / 1024)} TiB"


_SIZE = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,9}))?\s*([KMGT]i?B|B|)", re.IGNORECASE | re.ASCII)


def parse_bytes(text: str, unit: str = "B") -> int:
    """Whole bytes of a written size: ``500MiB``, ``1.5 GiB``, ``2 TB``; a bare number is in ``unit``.

    Raises ValueError naming the accepted forms.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"cannot read {text!r} as a size; write for example 500MiB, 20GiB or 1.5TB")
    whole, fraction, named = match[1], match[2] or "", (match[3] or unit).upper()
    power = " KMGT".index(named[0]) if named != "B" else 0
    base: int = (1024 if "I" in named else 1000) ** power
    return int(whole + fraction) * base // int(10 ** len(fraction))


def _one_decimal(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def format_percent(percent: int | None) -> str:
    """``63 %``, or a dash when a device does not tell."""
    return NO_VALUE if percent is None else f"{percent} %"


def format_fraction(fraction: float | None) -> str:
    """Progress 0–1 as whole percent, rounded down so that 100 % means finished."""
    return NO_VALUE if fraction is None else f"{math.floor(min(1.0, max(0.0, fraction)) * 100)} %"


def format_instant(
    when: datetime | None, *, now: datetime | None = None, zone: tzinfo | None = None, seconds: bool = False
) -> str:
    """An instant in local words with its zone: ``today 18:00 CET``, ``tomorrow 08:30 UTC``, ``Fri 5 Dec 18:00 CET``.

    ``zone`` defaults to this machine's; ``now`` decides what "today" means and defaults to the present. With
    ``seconds`` the clock shows them.
    """
    if when is None:
        return NO_VALUE
    local = when.astimezone(zone)
    today = (now or datetime.now(timezone.utc)).astimezone(zone)
    days = (local.date() - today.date()).days
    clock = f"{local:{'%H:%M:%S' if seconds else '%H:%M'}} {local.tzname() or 'UTC'}"
    if days in (-1, 0, 1):
        return f"{('yesterday', 'today', 'tomorrow')[days + 1]} {clock}"
    year = "" if local.year == today.year else f" {local.year}"
    return f"{_DAYS[local.weekday()]} {local.day} {_MONTHS[local.month - 1]}{year} {clock}"


def format_date_time(when: datetime, zone: tzinfo = timezone.utc, *, seconds: bool = False) -> str:
    """An instant for a page that may stay open for days: ``Fri 21 Nov 2025, 18:00 UTC``."""
    local = when.astimezone(zone)
    clock = f"{local:{'%H:%M:%S' if seconds else '%H:%M'}} {local.tzname() or 'UTC'}"
    return f"{_DAYS[local.weekday()]} {local.day} {_MONTHS[local.month - 1]} {local.year}, {clock}"


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
