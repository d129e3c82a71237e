"""Money as integer micro-units: reading it, writing it, and the one formula that turns time into it.

The formula is C = n·p·t: ``n`` GPUs (1 for a task rate), ``p`` the price per hour, ``t`` hours. Hours are counted in
milliseconds, so 8 GPUs at 0.5 per hour for 4 h cost exactly 16.
"""

from __future__ import annotations

import re
from decimal import Decimal

MICROS_PER_UNIT = 1_000_000
MS_PER_HOUR = 3_600_000
MAX_MICROS = 10**15

_DECIMALS = 6
_WRITTEN = re.compile(r"(\d{1,12})(?:\.(\d{1,6}))?", re.ASCII)


def parse_money(value: str | int | Decimal) -> int:
    """Micro-units of an amount written in whole units: ``"0.5"`` -> 500 000.

    Raises TypeError for floats, booleans and anything else that is not text, int or Decimal; ValueError for negative,
    non-finite or too large amounts (above 10**15 micro-units) and for more than 6 decimals.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        raise TypeError(f"an amount is a str, int or Decimal, not {type(value).__name__}: binary floats cannot hold it")
    micros = _micros_of_text(value) if isinstance(value, str) else _micros_of_number(value)
    if not 0 <= micros <= MAX_MICROS:
        raise ValueError(f"an amount must be between 0 and {MAX_MICROS // MICROS_PER_UNIT}")
    return micros


def _micros_of_text(text: str) -> int:
    match = _WRITTEN.fullmatch(text.strip())
    if match is None:
        raise ValueError("write an amount as digits with at most 6 decimals, for example 0.42")
    whole, decimals = match.groups(default="")
    return int(whole) * MICROS_PER_UNIT + int(decimals.ljust(_DECIMALS, "0"))


def _micros_of_number(number: int | Decimal) -> int:
    if isinstance(number, int):
        return number * MICROS_PER_UNIT
    # Refused before any arithmetic: the integers behind 1E+999999 or 1E-999999 have a million digits.
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or number.adjusted() > 12 or exponent < -64:
        raise ValueError("an amount must be finite, and neither astronomically large nor fine")
    numerator, denominator = number.as_integer_ratio()
    micros, rest = divmod(numerator * MICROS_PER_UNIT, denominator)
    if rest:
        raise ValueError("an amount has at most 6 decimals")
    return micros


def format_money(micros: int, currency: str = "") -> str:
    """An amount for people: exact, at least 2 and at most 6 decimals, ``"0.42 credits"``."""
    whole, rest = divmod(abs(micros), MICROS_PER_UNIT)
    decimals = f"{rest:06d}".rstrip("0").ljust(2, "0")
    text = f"{'-' if micros < 0 else ''}{whole}.{decimals}"
    return f"{text} {currency}" if currency else text


def hourly_amount_micros(count: int, rate_micros: int, ms: int) -> int:
    """C = n·p·t in micro-units, rounded down: ``count`` things at ``rate_micros`` per hour each, for ``ms``.

    Raises ValueError when any of the three is negative.
    """
    if count < 0 or rate_micros < 0 or ms < 0:
        raise ValueError("count, rate and duration must not be negative")
    return count * rate_micros * ms // MS_PER_HOUR
